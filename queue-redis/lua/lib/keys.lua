-- Every script begins with this: the fixed keys. What it needs of META follows (read.lua), then the clock
-- (start.lua).
--
-- The rule of all scripts: validate everything, read everything, then write; no call that can
-- fail comes after the first write, because Redis does not roll back. Keys whose names are found
-- at run time are read with pcall first: one of a wrong type is left alone, not an error. What is left
-- is a command that the user may not use: enqueues, after which a record would tell of a job that never
-- runs, take back what they have written.
-- Ids, tokens and payloads are opaque strings; numbers stay below 2^53.

local META, JOBS, DUE, IDEM, BODY, LIVE, FIN, RUN, CLAIMS, LEASES, AGES, BAD, WHENCE,
  LIMITED, REOPEN, ATT, HISTORY, RESULT, CANCEL, LOG, LIMITS = unpack(KEYS, 1, #KEYS > 2 and #KEYS or 1)
-- (A call with two keys declares META and one that is never there: scripts.rs.)
-- Counters are fields of META, too, with "/" or ":" in their names: what is read and written there
-- travels in one call.
local COUNT = META
local PREFIX = string.sub(META, 1, -5) -- the name of META ends in "meta"
local call, try = redis.call, redis.pcall
local byte, sub, floor, min, max = string.byte, string.sub, math.floor, math.min, math.max
local concat, pack = table.concat, struct.pack

local TIME_MAX = 2 ^ 48 - 1
-- Arguments per call: `unpack` has a limit. Divisible by 2 and 16, and above PASS_MAX of queue-core, so
-- that a call with as many jobs as it may have takes the short way.
local CHUNK = 512
-- Settings of limits that are read at once, whichever are asked for.
local SETTINGS_FEW = 32
-- Payload and options, or a result, of more bytes than this live in a hash of their own: no pass
-- over records has to read them.
local INLINE_MAX_BYTES = 1024
-- Finished records kept per queue, for completed, cancelled and dead jobs each. A call that adds
-- some leaves up to SLACK more: dropping many at once costs each of them less.
local FINISHED_MAX, SLACK = 10000, 100

-- The usual settings of jobs: those of brief records that are not kept when they have completed, and those
-- of others: most attempts (10), most stalls (3), seconds of retention if completed (0, a day) and dead
-- (14 days), as in bytes 24 to 34 of whole records (class.lua).
local USUAL = '\0\10\3\0\0\0\0\0\18\117\0' .. '\0\10\3\0\1\81\128\0\18\117\0'

local meta -- what the script needs of META, the first three fields as start.lua reads them

