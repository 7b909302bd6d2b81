-- Count what a request cost that has ended, and hold nothing more for it.
-- KEYS: hosts; and for each budget: spent, held.
-- ARGV: generation, host, holder, the amount that was reserved, and what it cost.
-- Returns 'yes' or 'new'.
if redis.call('HGET', KEYS[1], 'g') ~= ARGV[1] then return 'new' end
for i = 2, #KEYS, 2 do
  set_held(KEYS[i + 1], ARGV[3], ARGV[2], held_by(KEYS[i + 1], ARGV[3]) - ARGV[4])
  add_spent(KEYS[i], ARGV[2], ARGV[5])
end
return 'yes'
