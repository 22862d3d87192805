//! Bytes of the messages between tap and host-agent.

use protocol::link::{Context, FromTap, Quantiles, RingRefusal, Stats, ToTap};

use super::Vector;

const CONTEXT: Context = Context { id: 7, generation: 0x0102_0304_0506_0708 };
const COUNTING: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Messages of a tap.
pub fn from_tap() -> Vec<Vector<FromTap>> {
    vec![
        Vector {
            name: "hello",
            hex: "26000000 01 000000
                  44534c4b 0100 0200 0300           # DSLK, versions 1 to 2, tap version 3
                  000102030405060708090a0b0c0d0e0f  # instance
                  d2040000 04000000                 # process 1234, callbacks version 4
                  0200 766d",
            message: FromTap::Hello {
                min: 1,
                max: 2,
                tap_version: 3,
                instance: COUNTING,
                pid: 1234,
                abi: 4,
                vm: "vm".into(),
            },
        },
        Vector {
            name: "bind",
            hex: "21000000 02 000000
                  07000000 0807060504030201
                  000102030405060708090a0b0c0d0e0f
                  0300 e282ac                       # three bytes of UTF-8",
            message: FromTap::Bind { context: CONTEXT, nonce: COUNTING, name: "\u{20ac}".into() },
        },
        Vector {
            name: "context_gone",
            hex: "0c000000 03 000000  07000000 0807060504030201",
            message: FromTap::ContextGone(CONTEXT),
        },
        Vector {
            name: "stats",
            hex: "c1000000 04 000000
                  0100000000000000 0200000000000000 0300000000000000 0400000000000000
                  0500000000000000 0600000000000000 0700000000000000 0800000000000000
                  0900000000000000 0a00000000000000 0b00000000000000 0c00000000000000
                  1000000000000000 1100000000000000 1200000000000000  # bytes, bytes, faults
                  01 13000000 14000000                                # disabled, contexts, resources
                  2000000000000000 2100000000000000 2200000000000000 2300000000000000
                  3000000000000000 3100000000000000 3200000000000000 3300000000000000",
            message: FromTap::Stats(Stats {
                answers: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
                request_bytes: 0x10,
                picture_bytes: 0x11,
                faults: 0x12,
                disabled: 1,
                contexts: 0x13,
                resources: 0x14,
                entry: Quantiles { count: 0x20, p50: 0x21, p99: 0x22, max: 0x23 },
                read: Quantiles { count: 0x30, p50: 0x31, p99: 0x32, max: 0x33 },
            }),
        },
        Vector {
            name: "ring_ready",
            hex: "10000000 05 000000  0900000000000000 0100000000000000",
            message: FromTap::RingReady { session: 9, ring: 1 },
        },
        Vector {
            name: "ring_refused",
            hex: "11000000 06 000000  0900000000000000 0200000000000000 01",
            message: FromTap::RingRefused { session: 9, ring: 2, refusal: RingRefusal::Memory },
        },
    ]
}

/// Messages of a host-agent.
pub fn to_tap() -> Vec<Vector<ToTap>> {
    vec![
        Vector {
            name: "hello_ack",
            hex: "06000000 81 000000  44534c4b 0100",
            message: ToTap::HelloAck { version: 1 },
        },
        Vector {
            name: "attach",
            hex: "1c000000 82 000000  0900000000000000 0300000000000000 07000000 0807060504030201",
            message: ToTap::Attach { session: 9, ring: 3, context: CONTEXT },
        },
        Vector {
            name: "detach",
            hex: "08000000 83 000000  ffffffffffffffff",
            message: ToTap::Detach { session: u64::MAX },
        },
        Vector {
            name: "expect",
            hex: "12000000 84 000000  0200 0100000000000000 0807060504030201",
            message: ToTap::Expect(vec![1, 0x0102_0304_0506_0708]),
        },
        Vector {
            name: "forget",
            hex: "08000000 85 000000  0807060504030201",
            message: ToTap::Forget(0x0102_0304_0506_0708),
        },
    ]
}
