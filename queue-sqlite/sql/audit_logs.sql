-- Logs are bounded, and the number of the last line is known.
SELECT job.id, 'its log has ' || count(*) || ' lines of ' || sum(octet_length(line.text)) || ' bytes'
  FROM line JOIN job ON job.job = line.job
 GROUP BY line.job HAVING count(*) > 100 OR sum(octet_length(line.text)) > 65536
UNION ALL
SELECT job.id, 'its log counts ' || note.last_line || ' lines and has number ' || max(line.number)
  FROM line JOIN note ON note.job = line.job JOIN job ON job.job = line.job
 GROUP BY line.job HAVING max(line.number) > note.last_line;
