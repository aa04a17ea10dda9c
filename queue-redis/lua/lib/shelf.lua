-- The entries of shelves (finish.lua): ids, and perhaps a *tag*, which says that all are of completed
-- jobs of one kind, without idempotency keys, whose payloads and results are not apart. So they can
-- be dropped without being looked at, as long as nothing is in quarantine and META has no `astray`: that
-- is set when a job was not found on its shelf, which may name it still (unshelve.lua).
--
-- A tag is the kind and, as one byte, how long the tag is. A zero byte is between if they would be a
-- multiple of 16 bytes: an entry of such a length has no tag.

-- How many bytes of an entry are ids, none if it is no entry, and the kind that its tag names.
local function read_entry(entry)
  if #entry % 16 == 0 then return #entry end
  local ids_end = #entry - byte(entry, -1)
  if ids_end <= 0 or ids_end % 16 ~= 0 then return 0 end
  local kind = string.match(sub(entry, ids_end + 1, -2), '^([a-z0-9_.-]+)%z?$')
  if kind then return ids_end, kind end
  return 0
end

local function ids_of_entry(entry) return split_ids(sub(entry, 1, (read_entry(entry)))) end
