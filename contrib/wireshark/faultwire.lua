-- Verdict, stage and held time of each packet in a capture that `faultwire ... --pcap FILE` wrote.
--
--   wireshark -X lua_script:faultwire.lua FILE
--   tshark -X lua_script:faultwire.lua -r FILE -Y 'faultwire.verdict == "dropped"'
--
-- Fields for filters and columns:
--   faultwire.verdict  received, sent or dropped
--   faultwire.port     name of the port where the packet came in, or left
--   faultwire.stage    PATH/STAGE that decided, where one did
--   faultwire.reason   why it was dropped: a reason, or the random number and its threshold
--   faultwire.held     seconds between coming in and leaving or being dropped
--   faultwire.flow, faultwire.packet  number of the flow in the file, and of the packet in the flow
-- In Wireshark, drops have the colour of the first temporary colour filter. docs/captures.md tells how to add columns.

local faultwire = Proto("faultwire", "faultwire")

local fields = {
    verdict = ProtoField.string("faultwire.verdict", "Verdict"),
    port = ProtoField.string("faultwire.port", "Port"),
    stage = ProtoField.string("faultwire.stage", "Stage"),
    reason = ProtoField.string("faultwire.reason", "Reason"),
    held = ProtoField.double("faultwire.held", "Held (s)"),
    flow = ProtoField.uint64("faultwire.flow", "Flow"),
    packet = ProtoField.uint64("faultwire.packet", "Packet"),
}
faultwire.fields = { fields.verdict, fields.port, fields.stage, fields.reason, fields.held, fields.flow, fields.packet }

local interface_name = Field.new("frame.interface_name")
local packet_id = Field.new("frame.packet_id")
local comment = Field.new("frame.comment")

local VERDICTS = { ["in"] = "received", out = "sent", dropped = "dropped" }

-- When packets came in, by their number; and how long each frame was held, for frames that are shown again.
local arrived, held = {}, {}

function faultwire.init()
    arrived, held = {}, {}
end

-- "up/loss: dropped, 0.0031 < 0.01, held 2.0 ms (flow 17, packet 4102)" in its parts; of several, the last is the verdict.
local function read(text)
    local last = text:gsub("^.*; ", "")
    local stage, rest = last:match("^([^:]+): %a+(.*)$")
    if not stage then return {} end
    local flow, packet = rest:match("%(flow (%d+), packet (%d+)%)")
    local reason = rest:gsub(" %(flow.*$", ""):gsub(", held .*$", ""):gsub("^, ", "")
    return { stage = stage, reason = reason, flow = flow, packet = packet }
end

function faultwire.dissector(buffer, pinfo, tree)
    local name = interface_name()
    if not name then return end
    local port, side = name.value:match("^(.*)/(%a+)$")
    local verdict = VERDICTS[side]
    if not verdict then return end

    local id = packet_id() and tostring(packet_id().value)
    if not pinfo.visited and id then
        if side == "in" then
            arrived[id] = pinfo.abs_ts
        elseif arrived[id] then
            held[pinfo.number] = pinfo.abs_ts - arrived[id]
        end
    end

    local item = tree:add(faultwire, buffer(0, 0))
    item:set_generated()
    item:add(fields.verdict, verdict)
    item:add(fields.port, port)
    local said = comment() and read(comment().value) or {}
    if said.stage and (verdict == "dropped" or said.stage:find("/")) then
        item:add(fields.stage, said.stage)
    end
    if verdict == "dropped" and said.reason and said.reason ~= "" then
        item:add(fields.reason, said.reason)
    end
    if held[pinfo.number] then
        item:add(fields.held, held[pinfo.number])
    end
    if said.flow then
        item:add(fields.flow, UInt64(tonumber(said.flow)))
        item:add(fields.packet, UInt64(tonumber(said.packet)))
    end
    if verdict == "dropped" then
        pinfo.cols.info:prepend("[dropped by " .. (said.stage or "the router") .. "] ")
    end
end

register_postdissector(faultwire)

if gui_enabled() then
    set_color_filter_slot(1, 'faultwire.verdict == "dropped"')
end
