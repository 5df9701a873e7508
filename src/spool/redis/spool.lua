-- The spool, one step at a time: nobody comes between what a step reads and what it writes.
--
-- KEYS[1] is the prefix of all keys; it holds their one hash tag, so that they share a slot. ARGV: the step, the time in
-- milliseconds, then what the step wants.
--
--   P:entry:ID     hash: what is kept of an entry
--   P:key:M:KEY    its id, by model and idempotency key
--   P:stream:M     ids of a model's entries whose turn it is, for the consumer group; a message is there until its try ended
--   P:later:M      sorted set: ids of those whose turn comes, by when
--   P:waiting, P:running, P:done, P:parked   sorted sets: all ids by state, by (received, until, at, at)
--   P:kept         sorted set: all ids, by when they are forgotten
--   P:sizes        hash: bytes of request and result, by id;  P:bytes: their sum
--
-- Gateways sweep what is over. Where none is left, or none that knows the model, every key goes by itself, an hour later by Redis's own
-- clock: an entry's with it, a shared one with the last entry that it was written for.
local P, step, now = KEYS[1], ARGV[1], ARGV[2]
local GROUP = 'gateways'
-- Beside its work, what one step forgets or takes back at most.
local SWEEP = 100

local META = {'key', 'model', 'why', 'digest', 'received', 'expires', 'attempts', 'claims', 'state', 'due', 'by', 'until',
  'at', 'reason', 'once'}

local function entry(id) return P .. ':entry:' .. id end
local function stream(model) return P .. ':stream:' .. model end
local function later(model) return P .. ':later:' .. model end

local function life(expires)
  return math.max(tonumber(expires) - tonumber(now), 0) + 3600000
end

-- A key that entries share lasts as long as each of them.
local function outlast(key, id)
  local lasts = life(redis.call('HGET', entry(id), 'expires') or now)
  if redis.call('PTTL', key) < lasts then redis.call('PEXPIRE', key, string.format('%.0f', lasts)) end
end

-- Takes an entry out of its model's queue, wherever in it it is.
local function unqueue(id, model)
  redis.call('ZREM', later(model), id)
  local message = redis.call('HGET', entry(id), 'message')
  if message then
    redis.pcall('XACK', stream(model), GROUP, message)
    redis.call('XDEL', stream(model), message)
    redis.call('HDEL', entry(id), 'message')
  end
end

-- Its turn is now.
local function enqueue(id, model)
  local message = redis.call('XADD', stream(model), '*', 'id', id)
  redis.call('HSET', entry(id), 'message', message)
  outlast(stream(model), id)
end

local function enter(id, state, score)
  for _, other in ipairs({'waiting', 'running', 'done', 'parked'}) do
    if other ~= state then redis.call('ZREM', P .. ':' .. other, id) end
  end
  redis.call('ZADD', P .. ':' .. state, score, id)
  outlast(P .. ':' .. state, id)
  redis.call('HSET', entry(id), 'state', state)
end

local function wait(id, model, due)
  enter(id, 'waiting', redis.call('HGET', entry(id), 'received'))
  redis.call('HSET', entry(id), 'due', due)
  if tonumber(due) <= tonumber(now) then
    enqueue(id, model)
  else
    redis.call('ZADD', later(model), due, id)
    outlast(later(model), id)
  end
end

local function park(id, reason)
  enter(id, 'parked', now)
  redis.call('HSET', entry(id), 'at', now, 'reason', reason)
end

-- More bytes are kept of it.
local function grow(id, bytes)
  redis.call('HINCRBY', P .. ':sizes', id, bytes)
  redis.call('INCRBY', P .. ':bytes', bytes)
end

local function forget(id)
  local size = redis.call('HGET', P .. ':sizes', id)
  if size then
    redis.call('DECRBY', P .. ':bytes', size)
    redis.call('HDEL', P .. ':sizes', id)
  end
  local known = redis.call('HMGET', entry(id), 'model', 'key')
  if known[1] then
    unqueue(id, known[1])
    redis.call('DEL', P .. ':key:' .. known[1] .. ':' .. known[2])
  end
  for _, set in ipairs({'waiting', 'running', 'done', 'parked', 'kept'}) do redis.call('ZREM', P .. ':' .. set, id) end
  return redis.call('DEL', entry(id))
end

local function sweep()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. ':kept', '-inf', now, 'LIMIT', 0, SWEEP)) do forget(id) end
end

local function keep_until(id, model, key, expires)
  redis.call('ZADD', P .. ':kept', expires, id)
  redis.call('HSET', entry(id), 'expires', expires)
  local lasts = string.format('%.0f', life(expires))
  redis.call('PEXPIRE', entry(id), lasts)
  redis.call('PEXPIRE', P .. ':key:' .. model .. ':' .. key, lasts)
  for _, shared in ipairs({'kept', 'sizes', 'bytes'}) do outlast(P .. ':' .. shared, id) end
end

-- The messages of a stream that nobody has, made `by`'s.
local function read(model, by, most)
  local function ask()
    return redis.pcall('XREADGROUP', 'GROUP', GROUP, by, 'COUNT', most, 'STREAMS', stream(model), '>')
  end
  if redis.call('EXISTS', stream(model)) == 0 then return {} end
  local got = ask()
  if got and got.err then
    redis.call('XGROUP', 'CREATE', stream(model), GROUP, '0')
    got = ask()
  end
  if not got then return {} end
  if got.err then return redis.error_reply(got.err) end
  return got[1][2]
end

local steps = {}

-- id, key, model, why, digest, expires, most, most bytes, request, whether it is tried once only
function steps.put(id, key, model, why, digest, expires, most, most_bytes, request, once)
  sweep()
  local by_key = P .. ':key:' .. model .. ':' .. key
  local known = redis.call('GET', by_key)
  if known and redis.call('EXISTS', entry(known)) == 1 then
    if redis.call('HGET', entry(known), 'digest') ~= digest then return {'other'} end
    return {'known', known}
  end
  if redis.call('ZCARD', P .. ':kept') >= tonumber(most) then return {'full'} end
  local bytes = redis.call('GET', P .. ':bytes') or '0'
  if tonumber(bytes) + #request > tonumber(most_bytes) then return {'no room', bytes} end
  grow(id, #request)
  redis.call('HSET', entry(id), 'key', key, 'model', model, 'why', why, 'digest', digest, 'received', now, 'attempts', 0,
    'claims', 0, 'request', request, 'once', once)
  redis.call('SET', by_key, id)
  keep_until(id, model, key, expires)
  wait(id, model, now)
  return {'known', id}
end

-- by, until, max_retries, the reason of those given up, most, then models
function steps.claim(by, till, max_retries, abandoned, most, ...)
  sweep()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. ':running', '-inf', now, 'LIMIT', 0, SWEEP)) do
    local of = redis.call('HMGET', entry(id), 'model', 'attempts', 'once')
    if not of[1] then
      forget(id)
    else
      unqueue(id, of[1])
      local ends = of[3] == '1' or tonumber(of[2]) > tonumber(max_retries)
      if ends then park(id, abandoned) else wait(id, of[1], now) end
    end
  end
  local claimed, left = {}, tonumber(most)
  for _, model in ipairs({...}) do
    if left == 0 then break end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', later(model), '-inf', now, 'LIMIT', 0, left)) do
      redis.call('ZREM', later(model), id)
      if redis.call('EXISTS', entry(id)) == 1 then enqueue(id, model) end
    end
    local messages = read(model, by, left)
    if messages.err then return messages end
    for _, message in ipairs(messages) do
      local id = message[2] and message[2][2]
      local of = id and redis.call('HMGET', entry(id), 'state', 'message') or {}
      if of[1] == 'waiting' and of[2] == message[1] then
        local attempts = redis.call('HINCRBY', entry(id), 'attempts', 1)
        local claims = redis.call('HINCRBY', entry(id), 'claims', 1)
        enter(id, 'running', till)
        redis.call('HSET', entry(id), 'by', by, 'until', till)
        left = left - 1
        local has = redis.call('HMGET', entry(id), 'request', 'once')
        claimed[#claimed + 1] = {id, claims, attempts, has[1] or '', tonumber(has[2] or '0')}
      else
        redis.call('XACK', stream(model), GROUP, message[1])
        redis.call('XDEL', stream(model), message[1])
      end
    end
  end
  return claimed
end

-- id, expires, reply
function steps.finish(id, expires, reply)
  local of = redis.call('HMGET', entry(id), 'state', 'model', 'key')
  if not of[1] then return 'gone' end
  if of[1] == 'done' then return 'already' end
  unqueue(id, of[2])
  enter(id, 'done', now)
  redis.call('HSET', entry(id), 'at', now, 'reply', reply)
  grow(id, #reply)
  keep_until(id, of[2], of[3], expires)
  return 'stored'
end

-- id, claim, then: again, due | park, reason | back, due
function steps.release(id, claim, how, what)
  local of = redis.call('HMGET', entry(id), 'state', 'claims', 'model')
  if of[1] ~= 'running' or of[2] ~= claim then return 0 end
  unqueue(id, of[3])
  if how == 'back' then redis.call('HINCRBY', entry(id), 'attempts', -1) end
  if how == 'park' then park(id, what) else wait(id, of[3], what) end
  return 1
end

function steps.get(id)
  return redis.call('HGETALL', entry(id))
end

function steps.id(model, key)
  return redis.call('GET', P .. ':key:' .. model .. ':' .. key)
end

-- state or kept, most
function steps.list(set, most)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', P .. ':' .. set, 0, tonumber(most) - 1)) do
    found[#found + 1] = {id, redis.call('HMGET', entry(id), unpack(META))}
  end
  return found
end

function steps.replay(id)
  local of = redis.call('HMGET', entry(id), 'state', 'model')
  if not of[1] then return 'gone' end
  if of[1] ~= 'waiting' and of[1] ~= 'parked' then return of[1] end
  unqueue(id, of[2])
  redis.call('HSET', entry(id), 'attempts', 0)
  wait(id, of[2], now)
  return 'due'
end

function steps.forget(id)
  return forget(id)
end

function steps.depth()
  local depth = {}
  for _, set in ipairs({'waiting', 'running', 'done', 'parked'}) do
    depth[#depth + 1] = redis.call('ZCARD', P .. ':' .. set)
  end
  depth[#depth + 1] = tonumber(redis.call('GET', P .. ':bytes') or '0')
  depth[#depth + 1] = redis.call('ZRANGE', P .. ':waiting', 0, 0, 'WITHSCORES')[2] or ''
  return depth
end

-- how long (ms) a consumer without messages may be away, then models: forgets consumers that are gone for good
function steps.tidy(away, ...)
  for _, model in ipairs({...}) do
    local consumers = redis.pcall('XINFO', 'CONSUMERS', stream(model), GROUP)
    if not consumers.err then
      for _, consumer in ipairs(consumers) do
        local of = {}
        for at = 1, #consumer, 2 do of[consumer[at]] = consumer[at + 1] end
        if of.pending == 0 and of.idle > tonumber(away) then
          redis.call('XGROUP', 'DELCONSUMER', stream(model), GROUP, of.name)
        end
      end
    end
  end
  return 'OK'
end

local arguments = {}
for at = 3, #ARGV do arguments[#arguments + 1] = ARGV[at] end
return steps[step](unpack(arguments))
