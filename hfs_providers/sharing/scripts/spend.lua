-- Reserve money if all budgets allow it; to reserve nothing tells how much of them is used.
-- KEYS: hosts; and for each budget: spent, held.
-- ARGV: generation, host, holder, the amount; and the limit of each budget.
-- Returns 'yes', 'over' or 'new'; how many hosts there are; and for each budget what was spent by all, what by this host,
-- and what is held.
if redis.call('HGET', KEYS[1], 'g') ~= ARGV[1] then return {'new'} end
local host, holder, wanted = ARGV[2], ARGV[3], tonumber(ARGV[4])
local hosts = 0
for _, seen in ipairs(redis.call('HVALS', KEYS[1])) do
  if (tonumber(seen) or 0) > now - LIFE then hosts = hosts + 1 end
end
local found = {'yes', hosts}
for i = 2, #KEYS, 2 do
  local held, spent = 0, 0
  local all = redis.call('HGETALL', KEYS[i + 1])
  for j = 1, #all, 2 do
    local expiry, amount, of = string.match(all[j + 1], '^(%d+) (%d+) (.*)$')
    if tonumber(expiry) > now then
      held = held + amount
    else
      -- Its calls may have been sent.
      add_spent(KEYS[i], of, amount)
      redis.call('HDEL', KEYS[i + 1], all[j])
    end
  end
  for _, amount in ipairs(redis.call('HVALS', KEYS[i])) do spent = spent + amount end
  if spent + held + wanted > tonumber(ARGV[4 + i / 2]) then found[1] = 'over' end
  for _, amount in ipairs({spent, tonumber(redis.call('HGET', KEYS[i], host) or 0), held}) do
    found[#found + 1] = whole(amount)
  end
end
if found[1] == 'yes' and wanted > 0 then
  for i = 3, #KEYS, 2 do set_held(KEYS[i], holder, host, held_by(KEYS[i], holder) + wanted) end
end
return found
