// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The programs of attachments and of veth ports. `.ci/bpf` compiles this file to `wire.o`, which is part of the tree and of the
// binary. It includes no header: the few declarations it needs are stable kernel ABI.
//
// An attachment has four:
//
//   device egress   leave    what the target sends goes to the outer TAP; what faultwire wrote back passes
//   outer ingress   left     what faultwire wrote back is marked and sent out of the device
//   device ingress  arrive   what the network sends goes to the inner TAP; what faultwire wrote back passes
//   inner ingress   arrived  what faultwire wrote back is marked and received by the device
//
// The router's end of a veth port is in a namespace of the router, beside a TAP device. A veth port has two:
//
//   veth ingress    forward  what the host sends goes to the TAP, or straight to the host behind another veth port
//   TAP ingress     deliver  what faultwire wrote is received by the host
//
// `leave`, `arrive` and `forward` have a cache of flows: packets of a flow in which nothing happens for a while pass, and are
// counted. Who may pass how far is faultwire's to say (bpf/flows.rs, engine/cache/flows.rs).

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

// The first fields of the context of tc programs (uapi/linux/bpf.h).
struct __sk_buff {
    u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
    u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end;
    u32 napi_id, family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
    u64 flow_keys, tstamp;
    u32 wire_len, gso_segs;
    u64 sk;
    u32 gso_size;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const change_type)(struct __sk_buff *skb, u32 type) = (void *)32;
static long (*const pull_data)(struct __sk_buff *skb, u32 length) = (void *)39;
// Linux 5.10. The device's peer, in another namespace, receives the skb in the same step.
static long (*const redirect_peer)(u32 ifindex, u64 flags) = (void *)155;

#define REDIRECT_INGRESS 1
#define NEXT (-1) // TCX_NEXT: on to the programs behind this one
#define DROP 2    // TCX_DROP
#define TO_HOST 0 // PACKET_HOST

#define MAP_ARRAY 2
#define MAP_PERCPU_ARRAY 6
#define MAP_MMAPABLE 1024

struct map {
    u32 type, key_size, value_size, max_entries, flags;
};

// Marks of all attachments have this upper half; the lower one tells them apart.
#define MARKS 0xfa170000u
#define MARKS_MASK 0xffff0000u

struct settings {
    // Of an attachment.
    u32 device, outer, inner, mark;
    // The cache: sets of flows, a power of two; 0 if there is none.
    u32 sets;
    // Whether TCP data that is sent again is detoured; and always 0, which the verifier does not know (find_flow).
    u16 follows, zero;
    u64 seed;
};

struct counters {
    // skbs that went to a TAP, came back from it, were left alone because somebody else had marked them, and passed by the cache.
    u64 detoured, returned, foreign, passed;
};

// A flow of the cache. Its key: both addresses, then the ports, the protocol, the IP version and the direction in one word.
#define KEY 5
struct flow {
    u64 key[KEY];
    // From the lowest bit: wire packets that have passed since faultwire opened the entry, a number of the opening, and skbs
    // that were detoured and that faultwire has not acknowledged. While that is not 0, all are detoured.
    u64 state;
    // Of the IP packets that have ever passed.
    u64 bytes;
    // From the lowest bit: the longest length of a wire packet that may pass, the device by which it leaves (of veth ports), and
    // how many wire packets may pass.
    u64 room;
};

#define PASSED_BITS 36
#define PASSED ((1ull << PASSED_BITS) - 1)
#define DETOUR (1ull << 48)
// Below what 16 bits hold: faultwire adds one to close the flow, and several processors may be beyond the comparison at once.
#define MOST_DETOURS 0xff00
#define LONGEST_BITS 17
#define DEVICE_BITS 11
#define ROOM_SHIFT (LONGEST_BITS + DEVICE_BITS)
#define LOWEST(bits) ((1ull << (bits)) - 1)

#define WAYS 8
struct set {
    struct flow flows[WAYS];
};

// Of each flow of a set, one behind the highest sequence number of its TCP data. Used if `follows` is set.
struct ends {
    u64 ends[WAYS];
};

// Frames of faultwire that have come by a hook.
struct returned {
    u64 frames, pad[7];
};

// A veth port.
struct port {
    // Among the veth ports.
    u32 number;
    // The TAP, and the router's end of the pair.
    u32 tap, inner;
    // The start of the frames that the host receives: its address and the router's.
    u8 addresses[12];
};

struct map settings SECTION("maps") = {MAP_ARRAY, sizeof(u32), sizeof(struct settings), 1, 0};
// By direction: of an attachment, 0 up (leave) and 1 down (arrive); otherwise the number of the veth port. The loader says how
// many, here and below.
struct map counters SECTION("maps") = {MAP_PERCPU_ARRAY, sizeof(u32), sizeof(struct counters), 2, 0};
struct map returned SECTION("maps") = {MAP_ARRAY, sizeof(u32), sizeof(struct returned), 2, MAP_MMAPABLE};
// By the index of either device of the port.
struct map ports SECTION("maps") = {MAP_ARRAY, sizeof(u32), sizeof(struct port), 1, 0};
struct map flows SECTION("maps") = {MAP_ARRAY, sizeof(u32), sizeof(struct set), 1, MAP_MMAPABLE};
struct map ends SECTION("maps") = {MAP_ARRAY, sizeof(u32), sizeof(struct ends), 1, MAP_MMAPABLE};

INLINE struct settings *read_settings(void) {
    u32 zero = 0;
    return map_lookup(&settings, &zero);
}

INLINE u16 swap16(u16 value) { return __builtin_bswap16(value); }

#define IPV4 0x0800
#define IPV6 0x86dd

// The kind of IP that the frame carries, 0 if none, and where it begins: behind at most two VLAN tags that stand in the frame.
INLINE u32 find_ip(struct __sk_buff *skb, u32 *at) {
    u16 type = skb->protocol;
    u8 *data = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    *at = 14;
#pragma unroll
    for (int tag = 0; tag < 2; tag++) {
        if (type != swap16(0x8100) && type != swap16(0x88a8))
            break;
        if (data + *at + 4 > end)
            return 0;
        type = *(u16 *)(data + *at + 2);
        *at += 4;
    }
    type = swap16(type);
    return type == IPV4 || type == IPV6 ? type : 0;
}

// What the cache has to know of an skb.
struct packet {
    u64 key[KEY];
    u32 wires, bytes, longest;
    // TTL or hop limit.
    u32 hops;
    // It may pass if its flow may.
    u32 is_plain;
    // TCP data that it carries; 0 if none.
    u32 sequence, data;
    // Where its flow's end is; 0 if nobody wants to know.
    u64 *end;
};

#define TCP 6
#define UDP 17
// FIN, SYN, RST
#define SHOWN 7

// Reads the headers; 0 if the skb is of no flow of the cache: not TCP or UDP, a fragment, with IP options or extension
// headers, or malformed. engine/cache/seen.rs says the same of packets that were detoured.
INLINE int read_packet(struct __sk_buff *skb, u32 type, u32 at, u32 direction, struct packet *p) {
    u32 ip_length = type == IPV4 ? 20 : 40;
    u8 *data = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    // Headers that are not in the linear part of the skb are brought there.
    if (data + at + ip_length + 20 > end) {
        u32 wanted = at + ip_length + 20;
        if (pull_data(skb, wanted < skb->len ? wanted : skb->len))
            return 0;
        data = (u8 *)(u64)skb->data;
        end = (u8 *)(u64)skb->data_end;
    }
    u8 *ip = data + at, *transport;
    u32 total;
    u64 protocol, version;
    if (type == IPV4) {
        transport = ip + 20;
        if (transport + 8 > end)
            return 0;
        if (ip[0] != 0x45 || (*(u16 *)(ip + 6) & swap16(0x3fff)))
            return 0;
        total = swap16(*(u16 *)(ip + 2));
        protocol = ip[9];
        p->hops = ip[8];
        version = 4;
        p->key[0] = *(u32 *)(ip + 12);
        p->key[1] = 0;
        p->key[2] = *(u32 *)(ip + 16);
        p->key[3] = 0;
    } else {
        transport = ip + 40;
        if (transport + 8 > end)
            return 0;
        if (ip[0] >> 4 != 6)
            return 0;
        total = 40 + swap16(*(u16 *)(ip + 4));
        protocol = ip[6];
        p->hops = ip[7];
        version = 6;
        p->key[0] = *(u64 *)(ip + 8);
        p->key[1] = *(u64 *)(ip + 16);
        p->key[2] = *(u64 *)(ip + 24);
        p->key[3] = *(u64 *)(ip + 32);
    }
    if (total > skb->len - at)
        return 0;
    u32 headers;
    p->is_plain = 1;
    p->sequence = 0;
    if (protocol == TCP) {
        if (transport + 20 > end)
            return 0;
        u32 length = (transport[12] >> 4) * 4;
        headers = ip_length + length;
        if (length < 20 || headers > total)
            return 0;
        if (transport[13] & SHOWN)
            p->is_plain = 0;
        p->sequence = __builtin_bswap32(*(u32 *)(transport + 4));
    } else if (protocol == UDP) {
        u32 length = swap16(*(u16 *)(transport + 4));
        headers = ip_length + 8;
        if (length < 8 || ip_length + length > total)
            return 0;
    } else {
        return 0;
    }
    p->key[4] = *(u32 *)transport | protocol << 32 | version << 40 | (u64)direction << 48;
    u32 payload = total - headers, segment = skb->gso_size;
    p->wires = 1;
    p->longest = total;
    if (segment > 0 && payload > segment) {
        p->wires = (payload + segment - 1) / segment;
        p->longest = headers + segment;
        // A train of another protocol inside, whose headers would be counted as payload.
        if (skb->gso_segs > 0 && skb->gso_segs != p->wires)
            p->is_plain = 0;
    }
    p->bytes = total + (p->wires - 1) * headers;
    p->data = protocol == TCP ? payload : 0;
    return 1;
}

INLINE int is_of(struct flow *flow, struct packet *p) {
    return flow->key[4] == p->key[4] && flow->key[0] == p->key[0] && flow->key[1] == p->key[1] && flow->key[2] == p->key[2] &&
           flow->key[3] == p->key[3];
}

INLINE struct flow *find_flow(struct settings *s, struct packet *p) {
    u64 hash = s->seed;
#pragma unroll
    for (int i = 0; i < KEY; i++) {
        hash = (hash ^ p->key[i]) * 0x9e3779b97f4a7c15ull;
        hash ^= hash >> 32;
    }
    u32 number = (u32)hash & (s->sets - 1);
    struct set *set = map_lookup(&flows, &number);
    struct ends *set_ends = 0;
    p->end = 0;
    if (s->follows && p->data) {
        set_ends = map_lookup(&ends, &number);
        if (!set_ends)
            return 0;
    }
    if (!set)
        return 0;
#pragma unroll
    for (int way = 0; way < WAYS; way++) {
        if (is_of(&set->flows[way], p)) {
            // With a constant, the verifier would check all that follows once for each way, which takes it four times as long.
            u32 found = (way + s->zero) & (WAYS - 1);
            if (set_ends)
                p->end = &set_ends->ends[found];
            return &set->flows[found];
        }
    }
    return 0;
}

// Sequence numbers (RFC 9293, 3.4): `a` comes before `b`.
INLINE int is_before(u32 a, u32 b) { return (int)(a - b) < 0; }

// The data of a packet that passes has been sent.
INLINE void advance(struct packet *p) {
    u32 until = p->sequence + p->data;
    u64 end = *(volatile u64 *)p->end;
    // Packets of one flow hardly ever pass on two processors at once.
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (!is_before(end, until))
            return;
        u64 seen = __sync_val_compare_and_swap(p->end, end, (u64)until);
        if (seen == end)
            return;
        end = seen;
    }
}

// How often others may change the state between a look at it and the change.
#define TRIES 8

// Whether the packet passes, and which device the flow leaves by. If not, its flow has one more detour.
INLINE int pass(struct flow *flow, struct packet *p, u32 *device) {
    // An atomic operation, so that what is read next is no older.
    u64 state = __sync_fetch_and_or(&flow->state, 0);
#pragma unroll
    for (int i = 0; i < TRIES; i++) {
        // The entry may have been given to another flow since it was found.
        if (!is_of(flow, p))
            return 0;
        u64 room = flow->room;
        int passes = p->is_plain && state < DETOUR && p->longest <= (room & LOWEST(LONGEST_BITS)) &&
                     (state & PASSED) + p->wires <= room >> ROOM_SHIFT;
        // Data that was sent before. The end is as old as the state: faultwire changes both when it opens the entry.
        if (passes && p->end && is_before(p->sequence, *(volatile u64 *)p->end))
            passes = 0;
        // Nobody has acknowledged detours for long: they are not counted any more.
        if (!passes && state / DETOUR >= MOST_DETOURS)
            return 0;
        u64 next = state + (passes ? p->wires : DETOUR);
        u64 seen = __sync_val_compare_and_swap(&flow->state, state, next);
        if (seen == state) {
            if (passes) {
                __sync_fetch_and_add(&flow->bytes, p->bytes);
                if (p->end)
                    advance(p);
            }
            *device = room >> LONGEST_BITS & LOWEST(DEVICE_BITS);
            return passes;
        }
        state = seen;
    }
    if (state / DETOUR < MOST_DETOURS)
        __sync_fetch_and_add(&flow->state, DETOUR);
    return 0;
}

// Whether the cache lets the skb pass.
INLINE int passes(struct settings *s, struct __sk_buff *skb, u32 type, u32 at, u32 direction) {
    struct packet packet;
    if (s->sets == 0 || !read_packet(skb, type, at, direction, &packet))
        return 0;
    struct flow *flow = find_flow(s, &packet);
    u32 device;
    return flow && pass(flow, &packet, &device);
}

// What both hooks of the device do: the way to the TAP `tap`, or past it.
INLINE int hook(struct __sk_buff *skb, struct settings *s, u32 direction, u32 tap) {
    struct counters *count = map_lookup(&counters, &direction);
    if (!count)
        return NEXT;
    if (skb->mark == s->mark) {
        struct returned *back = map_lookup(&returned, &direction);
        skb->mark = 0;
        if (back)
            __sync_fetch_and_add(&back->frames, 1);
        return NEXT;
    }
    if ((skb->mark & MARKS_MASK) == MARKS)
        return NEXT;
    u32 at, type = find_ip(skb, &at);
    if (!type)
        return NEXT;
    // The application's own marks are of no use behind the egress hook; on ingress somebody else's would be lost.
    if (direction == 1 && skb->mark != 0) {
        count->foreign++;
        return NEXT;
    }
    if (passes(s, skb, type, at, direction)) {
        count->passed++;
        return NEXT;
    }
    count->detoured++;
    return redirect(tap, 0);
}

SECTION("tc/leave") int leave(struct __sk_buff *skb) {
    struct settings *s = read_settings();
    return s ? hook(skb, s, 0, s->outer) : NEXT;
}

SECTION("tc/arrive") int arrive(struct __sk_buff *skb) {
    struct settings *s = read_settings();
    return s ? hook(skb, s, 1, s->inner) : NEXT;
}

// What comes out of a TAP: back to the device, marked. It counts as returned here, where it comes by also when the hooks of the
// device are gone.
INLINE int back(struct settings *s, struct __sk_buff *skb, u32 direction, u64 flags) {
    struct counters *count = map_lookup(&counters, &direction);
    if (count)
        count->returned++;
    skb->mark = s->mark;
    return redirect(s->device, flags);
}

SECTION("tc/left") int left(struct __sk_buff *skb) {
    struct settings *s = read_settings();
    return s ? back(s, skb, 0, 0) : NEXT;
}

SECTION("tc/arrived") int arrived(struct __sk_buff *skb) {
    struct settings *s = read_settings();
    return s ? back(s, skb, 1, REDIRECT_INGRESS) : NEXT;
}

// The port to which the cache lets the skb pass, 0 if it does not.
INLINE struct port *pass_on(struct settings *s, struct __sk_buff *skb, u32 type, u32 direction) {
    struct packet packet;
    if (s->sets == 0 || !read_packet(skb, type, 14, direction, &packet))
        return 0;
    // Its sender has to be told.
    if (packet.hops <= 1)
        packet.is_plain = 0;
    struct flow *flow = find_flow(s, &packet);
    u32 device;
    return flow && pass(flow, &packet, &device) ? map_lookup(&ports, &device) : 0;
}

// What a router does to a packet: one hop less, and the addresses of the next link.
INLINE int hop(struct __sk_buff *skb, u32 type, struct port *port) {
    u8 *data = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    if (data + 14 + 20 > end)
        return 0;
    __builtin_memcpy(data, port->addresses, sizeof(port->addresses));
    u8 *ip = data + 14;
    if (type == IPV4) {
        // RFC 1141: the checksum grows by what the TTL, the upper byte of its word, loses.
        u32 sum = *(u16 *)(ip + 10) + swap16(0x0100);
        *(u16 *)(ip + 10) = sum + (sum >= 0xffff);
        ip[8]--;
    } else {
        ip[7]--;
    }
    return 1;
}

SECTION("tc/forward") int forward(struct __sk_buff *skb) {
    struct settings *s = read_settings();
    u32 device = skb->ifindex;
    struct port *from = map_lookup(&ports, &device);
    if (!s || !from)
        return DROP;
    u32 number = from->number, tap = from->tap;
    struct counters *count = map_lookup(&counters, &number);
    u32 at, type = find_ip(skb, &at);
    if (!count || !type || at != 14 || skb->vlan_present)
        return DROP;
    struct port *to = pass_on(s, skb, type, number);
    if (!to) {
        count->detoured++;
        return redirect(tap, 0);
    }
    count->passed++;
    if (!hop(skb, type, to) || change_type(skb, TO_HOST))
        return DROP;
    return redirect_peer(to->inner, 0);
}

SECTION("tc/deliver") int deliver(struct __sk_buff *skb) {
    u32 device = skb->ifindex;
    struct port *port = map_lookup(&ports, &device);
    if (!port)
        return DROP;
    u32 number = port->number;
    struct counters *count = map_lookup(&counters, &number);
    struct returned *back = map_lookup(&returned, &number);
    if (!count || !back)
        return DROP;
    count->returned++;
    __sync_fetch_and_add(&back->frames, 1);
    return change_type(skb, TO_HOST) ? DROP : redirect_peer(port->inner, 0);
}
