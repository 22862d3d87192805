//! Endpoints and their texts.

use protocol::Endpoint;
use protocol::endpoint::{CID_ANY, CID_HOST};

use super::Vector;

/// One of each kind that is written differently.
pub fn texts() -> Vec<Vector<Endpoint>> {
    vec![
        Vector {
            name: "tcp_name",
            hex: "7463703a2f2f 612e62 3a 31323334 # tcp://a.b:1234",
            message: Endpoint::Tcp { host: "a.b".into(), port: 1234 },
        },
        Vector {
            name: "tcp_v6",
            hex: "7463703a2f2f 5b 666538303a3a31 25 6e30 5d 3a 31 # tcp://[fe80::1%n0]:1",
            message: Endpoint::Tcp { host: "fe80::1%n0".into(), port: 1 },
        },
        Vector {
            name: "unix",
            hex: "756e69783a 2f72756e2f73 # unix:/run/s",
            message: Endpoint::Unix("/run/s".into()),
        },
        Vector {
            name: "vsock_any",
            hex: "76736f636b3a2f2f 616e79 3a 35 # vsock://any:5",
            message: Endpoint::Vsock { cid: CID_ANY, port: 5 },
        },
        Vector {
            name: "vsock_host",
            hex: "76736f636b3a2f2f 32 3a 35303030 # vsock://2:5000",
            message: Endpoint::Vsock { cid: CID_HOST, port: 5000 },
        },
    ]
}
