-- How many jobs of a queue have started in the last 30 s spans, as claims count them.
--
-- In `starts:<span>` a queue has its count, and under "@" and its name the first start of the span: how many
-- ms after the span began, and how many jobs that call took.

-- Of the running span and the one before it the count and those two, as text for `StartRate`.
local function starts_of(queue)
  local texts = {}
  -- Whatever else damage has put there is 0.
  local function add(text)
    texts[#texts + 1] = text and #text <= 15 and string.find(text, '^%d+$') and text or '0'
  end
  for ago = 0, 1 do
    local span = string.format('%.0f', floor(now / 30000) - ago)
    local have = try('HMGET', PREFIX .. 'starts:' .. span, queue, '@' .. queue)
    local first, at_once = string.match(have[2] or '', '^(%d+) (%d+)$')
    add(have[1])
    add(first)
    add(at_once)
  end
  return concat(texts, ' ')
end
