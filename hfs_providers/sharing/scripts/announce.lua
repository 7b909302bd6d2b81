-- Tell everybody that a key is dead, must cool down, or was revived. What was learned before a revival does not count.
-- KEYS: told.
-- ARGV: the field of `told`; for how many ms it holds ('' where the key was revived); the reason; how many ms ago it was
--       learned ('' for now).
-- Returns 'yes', or 'revived' for a death that was learned before the key was revived.
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
      -- A process that repeats what it was told does so a little later.
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
  -- When the cooldown began is not known: if the server no longer has it, it is over.
  ms = 0
end
if ms and ms > 0 and answer == 'yes' then
  redis.call('HSET', told, field, now + ms .. ' ' .. ARGV[3])
  last = math.max(last, now + ms)
end
if last > 0 then redis.call('PEXPIRE', told, last - now) end
return answer
