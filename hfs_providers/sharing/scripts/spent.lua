-- Say what a host has spent and what a process holds, and that both live. What was said before is not counted again.
-- KEYS: hosts; and for each budget: spent, held.
-- ARGV: generation, host, holder; and for each budget what the host has spent, and what the process holds.
-- Returns 'yes'.
redis.call('HSET', KEYS[1], 'g', ARGV[1], ARGV[2], whole(now))
redis.call('PEXPIRE', KEYS[1], KEPT_SPENT)
for i = 2, #KEYS, 2 do
  local more = ARGV[2 + i] - (redis.call('HGET', KEYS[i], ARGV[2]) or 0)
  if more > 0 then add_spent(KEYS[i], ARGV[2], more) end
  set_held(KEYS[i + 1], ARGV[3], ARGV[2], tonumber(ARGV[3 + i]))
end
return 'yes'
