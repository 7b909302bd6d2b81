-- Read what is known of an account. Changes nothing.
-- KEYS: told; and, where counts are wanted, used, minute, flying.
-- Returns now, told, used, the requests that ended within the last minute, and requests and tokens in flight.
local found = {now, redis.call('HGETALL', KEYS[1])}
if KEYS[2] then
  local requests, tokens = 0, 0
  local all = redis.call('HGETALL', KEYS[4])
  for i = 1, #all, 2 do
    local expiry, r, t = string.match(all[i + 1], '^(%d+) (%d+) (%d+)$')
    if tonumber(expiry) > now then requests, tokens = requests + r, tokens + t end
  end
  found[3] = redis.call('HGETALL', KEYS[2])
  found[4] = redis.call('ZRANGEBYSCORE', KEYS[3], now - 59999, '+inf', 'WITHSCORES')
  found[5], found[6] = requests, tokens
end
return found
