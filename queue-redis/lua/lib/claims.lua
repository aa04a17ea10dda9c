-- More of a claim (left.lua).

local function pack_claim(first_fence, worker, ids)
  return pack('>BI6I8HB', CLAIM_VERSION, now, first_fence, #ids, #worker)
    .. worker
    .. concat(ids)
end

local function worker_of(packed)
  return sub(packed, CLAIM_BYTES + 1, CLAIM_BYTES + byte(packed, CLAIM_BYTES))
end

local function ids_of(packed)
  return split_ids(sub(packed, CLAIM_BYTES + 1 + byte(packed, CLAIM_BYTES)))
end
