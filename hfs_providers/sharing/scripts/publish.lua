-- Count what a host has used. What it published before is not counted again.
-- KEYS: used, minute, flying, shares.
-- ARGV: generation, host, holder, an id that is not given twice, requests and tokens in flight, number of entries of the
--       minute, number of buckets; then the entries, oldest first (ms, tokens), and the buckets (`h:N` or `d:N`,
--       requests, tokens).
-- Returns 'yes'.
local used, minute, flights, shares = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local host, id = ARGV[2], ARGV[4]
local entries, numbers = tonumber(ARGV[7]), tonumber(ARGV[8])
redis.call('ZREMRANGEBYSCORE', minute, '-inf', now - 60000)
local known = 0
for _, member in ipairs(redis.call('ZRANGE', minute, 0, -1)) do
  if string.sub(member, 1, #host + 1) == host .. '/' then known = known + 1 end
end
-- A host's entries are added in the order in which they ended: those that are missing are the youngest.
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
