-- What every script begins with. Each script is one atomic step on the counts of one account and scope.
--
-- Keys, all with an expiry; `T` is the hash tag of the account, so that they lie in one slot of a cluster:
--
--     hfs:generation   hash    id, settle (ms until which counts are being rebuilt), revived (ms of the last revival)
--     hfs:T:told       hash    `d:<key>`, `c:<model>` (`c:` for the account): `<until ms> <reason>`;
--                              `r:<key>`, `r:` (for the account): ms of its revival
--     hfs:T:used:S     hash    g (generation), mr and mt (requests and tokens of the minute), and for each bucket by its
--                              number hr:N, ht:N (a minute each), dr:N, dt:N (a quarter of an hour each)
--     hfs:T:minute:S   zset    `<host>/<id>/<tokens>` by the ms of its end
--     hfs:T:flying:S   hash    holder: `<expiry ms> <requests> <tokens>`
--     hfs:T:shares:S   hash    g, and what each host put into the buckets of `used`: `<host>/hr:N` and so on
--
-- and of budgets, with the hash tag `budgets`; money is in nano-USD:
--
--     hfs:{budgets}:hosts          hash    g, and when each host gave its last sign of life, in ms
--     hfs:{budgets}:spent:NAME:N   hash    what each host has spent in the period that begins at N
--     hfs:{budgets}:held:NAME      hash    holder: `<expiry ms> <what it has reserved> <host>`
--
--     invariant: mr and mt are the sums over `minute`, the buckets of `used` those over `shares`. A script that finds
--                `used` of another generation, or out of step with `minute`, changes nothing and returns 'new'.
--
-- Only the server's clock counts. A stamp is rounded up to the ms, and a bucket leaves its window when the youngest entry
-- that it may hold does: nothing is admitted early.

-- Counts are kept for this long after their last change: a day, and what its buckets are late.
local KEPT = 26 * 3600000
-- A holder without a sign of life is dead after 15 s. What it had sent counts at the provider for a minute more.
local LIFE = 75000
-- Where only requests in flight stand in the way, it is worth asking again after this time.
local BUSY = 100
-- The sizes of the buckets. Midnight is a multiple of the latter in every time zone.
local HOUR, DAY = 60000, 900000
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

-- Budgets. Lua writes large numbers with an exponent.
local KEPT_SPENT = 33 * 86400000
local function whole(number) return string.format('%.0f', number) end

local function set_held(key, holder, host, amount)
  if amount <= 0 then
    redis.call('HDEL', key, holder)
  else
    redis.call('HSET', key, holder, whole(now + LIFE) .. ' ' .. whole(amount) .. ' ' .. host)
    redis.call('PEXPIRE', key, KEPT_SPENT)
  end
end

local function held_by(key, holder)
  return tonumber(string.match(redis.call('HGET', key, holder) or '0 0 ', '^%d+ (%d+) '))
end

local function add_spent(key, host, amount)
  redis.call('HINCRBY', key, host, whole(amount))
  redis.call('PEXPIRE', key, KEPT_SPENT)
end
