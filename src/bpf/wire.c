// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The four programs of an attachment. `.ci/bpf` compiles this file to `wire.o`, which is part of the tree and of the
// binary. It includes no header: the few declarations it needs are stable kernel ABI.
//
//   device egress   leave    what the target sends goes to the outer TAP; what faultwire wrote back passes
//   outer ingress   left     what faultwire wrote back is marked and sent out of the device
//   device ingress  arrive   what the network sends goes to the inner TAP; what faultwire wrote back passes
//   inner ingress   arrived  what faultwire wrote back is marked and received by the device

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
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;

#define REDIRECT_INGRESS 1
#define NEXT (-1) // TCX_NEXT: on to the programs behind this one

#define MAP_ARRAY 2
#define MAP_PERCPU_ARRAY 6

struct map {
    u32 type, key_size, value_size, max_entries, flags;
};

// Marks of all attachments have this upper half; the lower one tells them apart.
#define MARKS 0xfa170000u
#define MARKS_MASK 0xffff0000u

struct settings {
    u32 device, outer, inner, mark;
};

struct counters {
    // skbs that passed in the kernel, went to a TAP, came back from it; and those that were left alone because somebody
    // else had marked them.
    u64 detoured, returned, foreign;
};

struct map settings SECTION("maps") = {MAP_ARRAY, sizeof(u32), sizeof(struct settings), 1, 0};
// 0 up (leave), 1 down (arrive).
struct map counters SECTION("maps") = {MAP_PERCPU_ARRAY, sizeof(u32), sizeof(struct counters), 2, 0};

INLINE struct settings *read_settings(void) {
    u32 zero = 0;
    return map_lookup(&settings, &zero);
}

INLINE u16 swap16(u16 value) { return __builtin_bswap16(value); }

// Whether the frame carries IP, behind at most two VLAN tags that stand in the frame.
INLINE int is_ip(struct __sk_buff *skb) {
    u16 type = skb->protocol;
    u8 *data = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    u32 at = 14;
#pragma unroll
    for (int tag = 0; tag < 2; tag++) {
        if (type != swap16(0x8100) && type != swap16(0x88a8))
            break;
        if (data + at + 4 > end)
            return 0;
        type = *(u16 *)(data + at + 2);
        at += 4;
    }
    return type == swap16(0x0800) || type == swap16(0x86dd);
}

// What both hooks of the device do: the way to the TAP `tap`, or past it.
INLINE int hook(struct __sk_buff *skb, u32 direction, u32 tap, u32 own) {
    struct counters *count = map_lookup(&counters, &direction);
    if (!count)
        return NEXT;
    if (skb->mark == own) {
        skb->mark = 0;
        count->returned++;
        return NEXT;
    }
    if ((skb->mark & MARKS_MASK) == MARKS)
        return NEXT;
    if (!is_ip(skb))
        return NEXT;
    // The application's own marks are of no use behind the egress hook; on ingress somebody else's would be lost.
    if (direction == 1 && skb->mark != 0) {
        count->foreign++;
        return NEXT;
    }
    count->detoured++;
    return redirect(tap, 0);
}

SECTION("tc/leave") int leave(struct __sk_buff *skb) {
    struct settings *s = read_settings();
    return s ? hook(skb, 0, s->outer, s->mark) : NEXT;
}

SECTION("tc/arrive") int arrive(struct __sk_buff *skb) {
    struct settings *s = read_settings();
    return s ? hook(skb, 1, s->inner, s->mark) : NEXT;
}

SECTION("tc/left") int left(struct __sk_buff *skb) {
    struct settings *s = read_settings();
    if (!s)
        return NEXT;
    skb->mark = s->mark;
    return redirect(s->device, 0);
}

SECTION("tc/arrived") int arrived(struct __sk_buff *skb) {
    struct settings *s = read_settings();
    if (!s)
        return NEXT;
    skb->mark = s->mark;
    return redirect(s->device, REDIRECT_INGRESS);
}
