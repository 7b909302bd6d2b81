-- Note that a key was revived: every process then asks whether what it knows of its own keys is out of date.
-- KEYS: generation.
-- Returns 'yes'.
redis.call('HSET', KEYS[1], 'revived', now)
redis.call('PEXPIRE', KEYS[1], KEPT)
return 'yes'
