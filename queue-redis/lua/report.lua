-- Progress and log lines of running jobs.
--
-- KEYS   21 fixed keys
-- ARGV   per report: id, token, percent or "", text, how many lines came before, how many come
--        now, and these
-- Reply  per report one letter: a applied, s stale
--
-- Invariant: only the token in `run` writes, and no line of an attempt is written twice.

local reports, ids = {}, {}
local at = 1
while at <= #ARGV do
  local report = {
    token = ARGV[at + 1],
    percent = tonumber(ARGV[at + 2]),
    text = ARGV[at + 3],
    before = tonumber(ARGV[at + 4]),
    count = tonumber(ARGV[at + 5]),
    from = at + 6,
  }
  ids[#ids + 1], reports[#reports + 1] = ARGV[at], report
  at = report.from + report.count
end

-- Adds the lines of a report that have not been seen.
local function add_lines(log, report, attempt)
  local seen = log.token == report.token and log.seen or 0
  for i = max(seen - report.before, 0), report.count - 1 do
    local text = ARGV[report.from + i]
    log.last = log.last + 1
    local line = pack('>HI6I6H', LINE_BYTES + #text, log.last, now, attempt) .. text
    log.lines[#log.lines + 1] = line
  end
  log.token, log.seen = report.token, min(max(seen, report.before + report.count), TIME_MAX)
end

-- Drops the first lines that are too many.
local function shorten(log)
  local kept, bytes = {}, 0
  for i = #log.lines, 1, -1 do
    bytes = bytes + #log.lines[i] - LINE_BYTES - 2
    if bytes > LOG_MAX_BYTES or #kept == LINES_MAX then break end
    kept[#kept + 1] = log.lines[i]
  end
  local count = #kept
  for i = 1, floor(count / 2) do
    kept[i], kept[count + 1 - i] = kept[count + 1 - i], kept[i]
  end
  log.lines = kept
end

local runs, atts = read('HMGET', RUN, ids), read('HMGET', ATT, ids)
local letters, written = {}, {}
for i, report in ipairs(reports) do
  if runs[i] and sub(runs[i], 1, 16) == report.token then
    local log = parse_log(call('HGET', LOG, ids[i])) or new_log()
    local att = parse_att(atts[i])
    if report.percent then
      log.percent, log.text = report.percent, report.text
    end
    add_lines(log, report, min((att and att.failures or 0) + 1, 65535))
    shorten(log)
    written[#written + 1], written[#written + 2] = ids[i], pack_log(log)
    letters[i] = 'a'
  else
    letters[i] = 's'
  end
end
each('HSET', LOG, written)
save_meta()
return concat(letters)
