-- A standing claim was sent behind a wait and runs when that ends. The worker may have taken it back
-- meanwhile: it has left two words for itself then, one to end the wait, and the other is still here. (Behind
-- a word about a cancel request, if that has come in between: the claim is made then, for whoever waits.)
local own_words = PREFIX .. 'wake:w:' .. ARGV[2]
local own_word = try('LINDEX', own_words, '0')
if own_word == 'i' or own_word == 'r' then
  call('LPOP', own_words)
  return false
end
