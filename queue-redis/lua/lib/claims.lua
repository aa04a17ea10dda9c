-- A claim's record (`claims`): claimed_ms, first fence, jobs left, worker bytes, worker, and the
-- ids of its jobs in the order in which they were chosen. A job is held while `run` names the
-- claim's token for it.

local CLAIM_BYTES = 17

local function is_claim(packed) return packed and #packed > CLAIM_BYTES end

local function pack_claim(first_fence, worker, ids)
  return pack('>I6I8HB', now, first_fence, #ids, #worker) .. worker .. concat(ids)
end

local function worker_of(packed)
  return sub(packed, CLAIM_BYTES + 1, CLAIM_BYTES + byte(packed, CLAIM_BYTES))
end

local function ids_of(packed)
  return split_ids(sub(packed, CLAIM_BYTES + 1 + byte(packed, CLAIM_BYTES)))
end

local function left_of(packed)
  local high, low = byte(packed, 15, 16)
  return high * 256 + low
end

local function with_left(packed, left)
  return sub(packed, 1, 14) .. pack('>H', left) .. sub(packed, CLAIM_BYTES)
end
