-- A claim's record (`claims`): version, claimed_ms, first fence, jobs left, worker bytes, worker,
-- and the ids of its jobs in the order in which they were chosen. A job is held while `run` names
-- the claim's token for it.

local CLAIM_VERSION, CLAIM_BYTES = 1, 18

-- Whether this is a claim's record, and a whole one.
local function is_claim(packed)
  if not packed or #packed <= CLAIM_BYTES or byte(packed) ~= CLAIM_VERSION then return false end
  local ids_bytes = #packed - CLAIM_BYTES - byte(packed, CLAIM_BYTES)
  return ids_bytes > 0 and ids_bytes % 16 == 0
end

local function left_of(packed)
  local high, low = byte(packed, 16, 17)
  return high * 256 + low
end

local function with_left(packed, left)
  return sub(packed, 1, 15) .. pack('>H', left) .. sub(packed, CLAIM_BYTES)
end
