-- Requests as browsers send them, no two the same: for relays that remember what they have parsed.
-- Path, Referer and Cookie change with every request, and so do lengths; User-Agent and Accept take turns.

local agents = {
   "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
   "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
   "loadtest/1.0",
}
local accepts = {
   "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
   "application/json",
   "image/avif,image/webp,*/*",
   "*/*",
   "text/css,*/*;q=0.1",
}

local run = os.time()  -- the next run must not repeat this one's heads
local middles = {}
local count = 0

function init(_)
   local host = wrk.headers["Host"] or (wrk.host .. ":" .. wrk.port)
   -- What changes seldom is put together once: this program shares its CPUs with what it measures.
   for _, agent in ipairs(agents) do
      for _, accept in ipairs(accepts) do
         middles[#middles + 1] = " HTTP/1.1\r\nHost: " .. host
            .. "\r\nUser-Agent: " .. agent
            .. "\r\nAccept: " .. accept
            .. "\r\nAccept-Language: en-GB,en;q=0.7,de;q=0.3"
            .. "\r\nAccept-Encoding: gzip, deflate, br"
            .. "\r\nConnection: keep-alive"
            .. "\r\nCache-Control: no-cache"
            .. "\r\nSec-Fetch-Mode: no-cors"
            .. "\r\nReferer: http://" .. host .. "/varied/"
      end
   end
end

function request()
   count = count + 1
   local number = tostring(count)
   return "GET /varied/" .. number .. "/item?page=" .. number .. middles[count % #middles + 1] .. number
      .. "\r\nCookie: theme=dark; session=" .. run .. "." .. number .. "\r\n\r\n"
end
