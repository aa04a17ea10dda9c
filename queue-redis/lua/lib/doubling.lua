-- Redis doubles the table of a hash that is full, and then moves a bucket of it with each command that
-- meets the hash, while each look-up searches both tables. Whoever claims from a long backlog would pay
-- for that, over millions of jobs. So enqueues move more buckets than their own, until that is over when
-- the hash has grown by an eighth: a random field, as a list of them is asked for, moves 15 of them first
-- (`dictGetSomeKeys`). Large calls look each time, small ones now and then.
if #ARGV > 128 or now % 16 == 0 then
  local jobs = PREFIX .. 'jobs'
  local size = call('HLEN', jobs)
  if size > 65536 and math.frexp(size) < 0.5625 then
    local added = 0 -- jobs: two bytes of each four in what tells how many are of which group (enqueue.lua),
    for i = 3, #ARGV[2], 4 do
      local high, low = byte(ARGV[2], i, i + 1)
      added = added + high * 256 + low
    end
    local at = 4 -- or as many as there are groups, which families count
    for _ = 1, ARGV[2] == '' and tonumber(ARGV[1]) or 0 do
      local flags, groups = ARGV[at + 5], ARGV[at + 6]
      added = added + groups
      at = at + 7 + (string.find(flags, 'l', 2, true) and groups or 0)
    end
    try('HRANDFIELD', jobs, string.format('%d', -max(math.ceil(added / 2), 16)))
  end
end

