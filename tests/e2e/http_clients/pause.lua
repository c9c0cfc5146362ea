-- wrk: POSTs to /ids/PREFIX-THREAD-NUMBER, or GETs if PREFIX is empty. `wrk … -- PREFIX PAUSE`:
-- PAUSE milliseconds between two, on average.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  prefix, pause = arguments[1], tonumber(arguments[2])
  sent = 0
  math.randomseed(os.time())
end

function delay()
  return math.random(0, 2 * pause)
end

function request()
  if prefix == "" then return wrk.format() end
  sent = sent + 1
  return wrk.format("POST", "/ids/" .. prefix .. "-" .. number .. "-" .. sent, nil, "x")
end
