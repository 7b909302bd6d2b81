-- Say that a holder lives.
-- KEYS: flying.
-- ARGV: holder, requests and tokens that it has in flight.
-- Returns 'yes'.
set_flying(KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
return 'yes'
