-- Count a request as in flight if the key may be used and all limits allow it.
-- KEYS: told, used, minute, flying.
-- ARGV: generation, holder, key, model, tokens, rpm, tpm, rph, tph, rpd, tpd ('' for no limit), begin and end of the
--       calendar day in ms ('' for a sliding day).
-- Returns 'yes', 'new', 'limited', 'cooling' or 'dead'; now; and for the last three: until, reason, scope.
local told, used, minute, flights = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holder, tokens = ARGV[2], tonumber(ARGV[5])
local head = redis.call('HMGET', used, 'g', 'mr', 'mt')
local mr, mt = tonumber(head[2] or 0), tonumber(head[3] or 0)
if head[1] ~= ARGV[1] or redis.call('ZCARD', minute) ~= mr then return {'new', now} end

local cooldowns = redis.call('HMGET', told, 'd:' .. ARGV[3], 'c:', 'c:' .. ARGV[4])
local kinds = {{'dead', 'key'}, {'cooling', 'key'}, {'cooling', 'model'}}
for i, kind in ipairs(kinds) do
  if cooldowns[i] then
    local till, reason = string.match(cooldowns[i], '^(%d+) (.*)$')
    if tonumber(till) > now then return {kind[1], now, tonumber(till), reason, kind[2]} end
  end
end

local gone = redis.call('ZRANGEBYSCORE', minute, '-inf', now - 60000)
if #gone > 0 then
  for _, member in ipairs(gone) do mt = mt - tokens_of(member) end
  mr = mr - #gone
  redis.call('ZREMRANGEBYSCORE', minute, '-inf', now - 60000)
  redis.call('HSET', used, 'mr', mr, 'mt', mt)
end

local fr, ft, mine_r, mine_t = 0, 0, 0, 0
local all = redis.call('HGETALL', flights)
for i = 1, #all, 2 do
  local expiry, r, t = string.match(all[i + 1], '^(%d+) (%d+) (%d+)$')
  if tonumber(expiry) <= now then
    redis.call('HDEL', flights, all[i])
  else
    fr, ft = fr + r, ft + t
    if all[i] == holder then mine_r, mine_t = tonumber(r), tonumber(t) end
  end
end

local NEVER = now + 86400000
local free_at, why = 0, ''
local function refuse(at, words)
  if at > free_at then free_at, why = at, words end
end

-- `leave(n, i)`: the instant at which n requests (i = 1) or tokens (i = 2) have left, of those that are used.
local function rule(words, most_r, most_t, sum_r, sum_t, leave)
  if most_r then
    local excess = sum_r + fr + 1 - most_r
    if excess > 0 then
      refuse(most_r <= 0 and NEVER or excess > sum_r and now + BUSY or leave(excess, 1), 'requests a ' .. words)
    end
  end
  if most_t then
    local excess = sum_t + ft + math.min(tokens, most_t) - most_t
    if excess > 0 or most_t <= 0 then
      -- Calls in flight mostly cost less than was reserved for them.
      refuse(most_t <= 0 and NEVER or ft > 0 and now + BUSY or leave(excess, 2), 'tokens a ' .. words)
    end
  end
end

local rpm, tpm, rph, tph, rpd, tpd = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]),
  tonumber(ARGV[10]), tonumber(ARGV[11])

rule('minute', rpm, tpm, mr, mt, function(n, i)
  if i == 1 then return redis.call('ZRANGE', minute, n - 1, n - 1, 'WITHSCORES')[2] + 60000 end
  local entries = redis.call('ZRANGE', minute, 0, -1, 'WITHSCORES')
  for j = 1, #entries, 2 do
    n = n - tokens_of(entries[j])
    if n <= 0 then return entries[j + 1] + 60000 end
  end
  return now + BUSY
end)

local fields
local function buckets(words, kind, grain, most_r, most_t, counts, leaves)
  if not (most_r or most_t) then return end
  fields = fields or redis.call('HGETALL', used)
  local sums, found, numbers = {0, 0}, {}, {}
  for i = 1, #fields, 2 do
    local of, what, number = string.match(fields[i], '^([hd])([rt]):(%d+)$')
    if of == kind and counts(tonumber(number)) then
      number = tonumber(number)
      if not found[number] then
        found[number] = {0, 0}
        numbers[#numbers + 1] = number
      end
      local which = what == 'r' and 1 or 2
      found[number][which] = tonumber(fields[i + 1])
      sums[which] = sums[which] + fields[i + 1]
    end
  end
  rule(words, most_r, most_t, sums[1], sums[2], function(n, i)
    table.sort(numbers)
    for _, number in ipairs(numbers) do
      n = n - found[number][i]
      if n <= 0 then return leaves(number) end
    end
    return now + BUSY
  end)
end

local function sliding(grain, span)
  local function leaves(number) return (number + 1) * grain + span end
  return function(number) return leaves(number) > now end, leaves
end

buckets('hour', 'h', HOUR, rph, tph, sliding(HOUR, 3600000))
local begins, ends = tonumber(ARGV[12]), tonumber(ARGV[13])
if begins and (rpd or tpd) then
  -- The process asked a moment before or after midnight.
  if now < begins then refuse(begins, 'requests a day') end
  if now >= ends then begins, ends = ends, ends + 82800000 end
  buckets('day', 'd', DAY, rpd, tpd, function(n) return n * DAY >= begins end, function() return ends end)
else
  buckets('day', 'd', DAY, rpd, tpd, sliding(DAY, 86400000))
end

if free_at > 0 then return {'limited', now, free_at, why, 'model'} end
set_flying(flights, holder, mine_r + 1, mine_t + tokens)
return {'yes', now}
