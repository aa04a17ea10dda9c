-- What most scripts need of META.
meta = call(
  'HMGET', META, 'schema', 'clock_ms', 'limits', 'stale', 'paused', 'turn', 'fence', 'loose', 'epoch',
  'rare'
)

