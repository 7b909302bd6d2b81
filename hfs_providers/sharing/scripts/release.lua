-- End requests in flight and count what they cost.
-- KEYS: used, minute, flying, shares.
-- ARGV: generation, host, holder, an id that is not given twice; and for each request the tokens that were reserved for
--       it, and those that it is charged with ('' where nothing was sent).
-- Returns 'yes' or 'new'.
local used, minute, flights, shares = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local host, holder, id = ARGV[2], ARGV[3], ARGV[4]
if redis.call('HGET', used, 'g') ~= ARGV[1] or redis.call('HGET', shares, 'g') ~= ARGV[1] then return 'new' end
local flown, reserved, sent, charged = 0, 0, 0, 0
for i = 5, #ARGV, 2 do
  flown = flown + 1
  reserved = reserved + ARGV[i]
  local tokens = tonumber(ARGV[i + 1])
  if tokens then
    sent = sent + 1
    charged = charged + tokens
    redis.call('ZADD', minute, now + 1, host .. '/' .. id .. '.' .. i .. '/' .. tokens)
  end
end
local requests, tokens = flying(flights, holder)
set_flying(flights, holder, requests - flown, tokens - reserved)
if sent > 0 then
  redis.call('HINCRBY', used, 'mr', sent)
  redis.call('HINCRBY', used, 'mt', charged)
  for kind, number in pairs({h = math.floor(now / HOUR), d = math.floor(now / DAY)}) do
    for what, count in pairs({r = sent, t = charged}) do
      local field = kind .. what .. ':' .. number
      redis.call('HINCRBY', shares, host .. '/' .. field, count)
      if redis.call('HINCRBY', used, field, count) == sent and field == 'hr:' .. number then
        sweep(used)
        sweep(shares)
      end
    end
  end
  redis.call('PEXPIRE', minute, KEPT)
end
redis.call('PEXPIRE', used, KEPT)
redis.call('PEXPIRE', shares, KEPT)
return 'yes'
