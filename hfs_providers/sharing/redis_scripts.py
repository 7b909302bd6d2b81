"""The Lua scripts of `sharing_redis`: each one atomic step on the counts of one account and scope.

Keys, all with an expiry, `T` being the hash tag of the account (one slot of a cluster):

    hfs:generation   hash    id, settle (ms until which counts are being rebuilt), revived (ms at which any key was)
    hfs:T:told       hash    `d:<fingerprint>`, `c:<model>` (`c:` for the account): `<until ms> <reason>`;
                             `r:<fingerprint>`, `r:` (for the account): ms at which it was revived
    hfs:T:used:S     hash    g (generation), mr and mt (requests and tokens of the minute), and of each bucket by its
                             number hr:N, ht:N (60 s), dr:N, dt:N (900 s)
    hfs:T:minute:S   zset    `<host>/<id>/<tokens>` by the ms of its end
    hfs:T:flying:S   hash    holder: `<expiry ms> <requests> <tokens>`
    hfs:T:shares:S   hash    g, and what each host put into the buckets of `used`: `<host>/hr:N` and so on

    invariant: mr, mt are the sums over `minute`, the buckets of `used` those over `shares`; a script that finds
               `used` of another generation, or out of step with `minute`, changes nothing and says `new`.

Only the server's clock counts. A stamp is rounded up to the ms, a bucket leaves its window when the youngest entry
that it may hold does: nothing is admitted early.
"""

from __future__ import annotations

KEPT = 26 * 3600 * 1000
"""Milliseconds that counts are kept after their last change: a day, and what its buckets are late."""

HOLDER_LIFE = 15_000
"""Milliseconds without a sign of life after which a holder is dead."""

AFTERLIFE = 60_000
"""Milliseconds that the calls of a dead holder still count: as long as what it had sent does at the provider."""

BUSY = 100
"""Milliseconds until it is worth asking again where only calls in flight stand in the way."""

HOUR_GRAIN, DAY_GRAIN = 60_000, 900_000
"""Milliseconds of a bucket. Midnight is a multiple of the latter in every time zone."""

_PRELUDE = f"""
local KEPT, LIFE, BUSY, HOUR, DAY = {KEPT}, {HOLDER_LIFE + AFTERLIFE}, {BUSY}, {HOUR_GRAIN}, {DAY_GRAIN}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function tokens_of(member) return tonumber(string.match(member, '/(%d+)$')) end

local function flying(key, holder)
  local said = redis.call('HGET', key, holder)
  if not said then return 0, 0 end
  local requests, tokens = string.match(said, '^%d+ (%d+) (%d+)$')
  return tonumber(requests), tonumber(tokens)
end

local function set_flying(key, holder, requests, tokens)
  if requests <= 0 then
    redis.call('HDEL', key, holder)
  else
    redis.call('HSET', key, holder, now + LIFE .. ' ' .. requests .. ' ' .. math.max(0, tokens))
    redis.call('PEXPIRE', key, LIFE)
  end
end

-- Whether a field of `used` or `shares` is a bucket that has left every window.
local function over(field)
  local kind, number = string.match(field, '([hd])[rt]:(%d+)$')
  if kind == 'h' then return (number + 1) * HOUR + 3600000 <= now end
  if kind == 'd' then return (number + 1) * DAY + 90000000 <= now end
  return false
end

local function sweep(key)
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if over(field) then redis.call('HDEL', key, field) end
  end
end
"""

# KEYS: generation. ARGV: the id that the process knows or '', an id to give, ms to settle, the id that has lost counts
# or ''. Gives: id, settle, now, and when any key was revived last.
REGISTER = """
local said = redis.call('HMGET', KEYS[1], 'id', 'settle', 'revived')
local id, settle = said[1], tonumber(said[2] or 0)
local known, fresh, lost = ARGV[1], ARGV[2], ARGV[4]
if not id or id == lost then
  id = fresh
  settle = (known == '' and lost == '') and 0 or now + ARGV[3]
elseif known ~= '' and id ~= known and settle == 0 then
  -- Made by a newcomer that could not know what was lost.
  settle = now + ARGV[3]
end
redis.call('HSET', KEYS[1], 'id', id, 'settle', settle)
redis.call('PEXPIRE', KEYS[1], KEPT)
return {id, settle, now, tonumber(said[3] or 0)}
"""

# KEYS: generation. A key was revived: who is here asks what of its own words is out of date. Gives: 'yes'.
REVIVED = """
redis.call('HSET', KEYS[1], 'revived', now)
redis.call('PEXPIRE', KEYS[1], KEPT)
return 'yes'
"""

# KEYS: told, used, minute, flying. ARGV: generation, holder, fingerprint, model, tokens, rpm, tpm, rph, tph, rpd, tpd
# ('' for none), begin and end of the calendar day in ms ('' for a sliding day).
# Gives: 'yes' | 'new' | 'limited' | 'cooling' | 'dead', now, and of the last three: until, reason, scope.
RESERVE = """
local told, used, minute, flights = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holder, tokens = ARGV[2], tonumber(ARGV[5])
local head = redis.call('HMGET', used, 'g', 'mr', 'mt')
local mr, mt = tonumber(head[2] or 0), tonumber(head[3] or 0)
if head[1] ~= ARGV[1] or redis.call('ZCARD', minute) ~= mr then return {'new', now} end

local rests = redis.call('HMGET', told, 'd:' .. ARGV[3], 'c:', 'c:' .. ARGV[4])
local kinds = {{'dead', 'key'}, {'cooling', 'key'}, {'cooling', 'model'}}
for i, kind in ipairs(kinds) do
  if rests[i] then
    local till, reason = string.match(rests[i], '^(%d+) (.*)$')
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
"""

# KEYS: used, minute, flying, shares. ARGV: generation, host, holder, an id that is not given twice, and for each call
# that ended: the tokens that it had reserved, and those that it is charged with ('' where nothing was sent).
# Gives: 'yes' | 'new'.
END = """
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
"""

# KEYS: used, minute, flying, shares. ARGV: generation, host, holder, an id that is not given twice, requests and tokens
# in flight, how many entries of the minute, how many buckets; then the entries, oldest first (ms, tokens), and the
# buckets (`h:N` or `d:N`, requests, tokens). What was published before is not counted again. Gives: 'yes'.
PUBLISH = """
local used, minute, flights, shares = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local host, id = ARGV[2], ARGV[4]
local entries, numbers = tonumber(ARGV[7]), tonumber(ARGV[8])
redis.call('ZREMRANGEBYSCORE', minute, '-inf', now - 60000)
local known = 0
for _, member in ipairs(redis.call('ZRANGE', minute, 0, -1)) do
  if string.sub(member, 1, #host + 1) == host .. '/' then known = known + 1 end
end
-- The host's entries went in in the order of their ends: those that are missing are its youngest.
for i = 0, entries - 1 do
  local at, tokens = tonumber(ARGV[9 + 2 * i]), ARGV[10 + 2 * i]
  if at > now - 60000 then
    if known <= 0 then
      redis.call('ZADD', minute, math.min(at, now + 1), host .. '/' .. id .. '.' .. i .. '/' .. tokens)
    end
    known = known - 1
  end
end
local first = 9 + 2 * entries
for i = first, first + 3 * numbers - 1, 3 do
  local kind, number = string.match(ARGV[i], '^([hd]):(%d+)$')
  for j, what in ipairs({'r', 't'}) do
    local field = host .. '/' .. kind .. what .. ':' .. number
    local count = tonumber(ARGV[i + j])
    if count > tonumber(redis.call('HGET', shares, field) or 0) then redis.call('HSET', shares, field, count) end
  end
end
sweep(shares)

redis.call('DEL', used)
local mr, mt = 0, 0
for _, member in ipairs(redis.call('ZRANGE', minute, 0, -1)) do mr, mt = mr + 1, mt + tokens_of(member) end
local all = redis.call('HGETALL', shares)
for i = 1, #all, 2 do
  local field = string.match(all[i], '/([hd][rt]:%d+)$')
  if field then redis.call('HINCRBY', used, field, all[i + 1]) end
end
redis.call('HSET', used, 'g', ARGV[1], 'mr', mr, 'mt', mt)
redis.call('HSET', shares, 'g', ARGV[1])
set_flying(flights, ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6]))
for _, key in ipairs({used, minute, shares}) do redis.call('PEXPIRE', key, KEPT) end
return 'yes'
"""

# KEYS: flying. ARGV: holder, requests and tokens that it has in flight. A sign of life. Gives: 'yes'.
BEAT = """
set_flying(KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
return 'yes'
"""

# KEYS: told. ARGV: field, ms, reason, and how many ms ago it was learned ('' for now); or the field of a death that is
# over, and ''. What was learned before the key was revived does not count. Gives: 'yes', or 'revived' for such a death.
TELL = """
local told, field, ms, age = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local all = redis.call('HGETALL', told)
local last, marks, known = 0, {}, false
for i = 1, #all, 2 do
  local till, kind = tonumber(string.match(all[i + 1], '^%d+')), string.sub(all[i], 1, 2)
  if kind == 'r:' then
    marks[all[i]] = till
    till = till + KEPT
  end
  if till <= now or (not ms and (all[i] == field or kind == 'c:')) then
    redis.call('HDEL', told, all[i])
  else
    last = math.max(last, till)
    if all[i] == field then
      known = true
      -- Who repeats what it was told itself says it a little later.
      if ms and now + ms <= till + 1000 then ms = 0 end
    end
  end
end
local answer = 'yes'
if not ms then
  redis.call('HSET', told, 'r:' .. string.sub(field, 3), now, 'r:', now)
  last = math.max(last, now + KEPT)
elseif age and string.sub(field, 1, 2) == 'd:' then
  if (marks['r:' .. string.sub(field, 3)] or 0) > now - age then answer = 'revived' end
elseif age and marks['r:'] and not known then
  -- When a rest began is not known: what those who are here have forgotten is over.
  ms = 0
end
if ms and ms > 0 and answer == 'yes' then
  redis.call('HSET', told, field, now + ms .. ' ' .. ARGV[3])
  last = math.max(last, now + ms)
end
if last > 0 then redis.call('PEXPIRE', told, last - now) end
return answer
"""

# KEYS: told; and used, minute, flying where counts are wanted. Changes nothing. Gives: now, told, used, what ended
# within the minute, and requests and tokens in flight.
LOOK = """
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
"""

SCRIPTS: dict[str, str] = {
    name: _PRELUDE + body
    for name, body in {
        "register": REGISTER,
        "revived": REVIVED,
        "reserve": RESERVE,
        "end": END,
        "publish": PUBLISH,
        "beat": BEAT,
        "tell": TELL,
        "look": LOOK,
    }.items()
}
