-- Learn the generation of the counts, or begin one.
-- KEYS: generation.
-- ARGV: the generation that the process knows or '', an id for a new one, ms to settle, the generation that has lost
--       counts or ''.
-- Returns the generation, until when it settles, now, and when any key was last revived.
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
