//! What the gateway counts since its start, for `stats` lines and `$SYS`.

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub in_msgs: u64,
    pub out_msgs: u64,
    pub recv_msgs: u64,
    pub fwd_sent: u64,
    pub fwd_acked: u64,
    /// Whole packets, and the payloads of publishes among them.
    pub in_packets: u64,
    pub in_bytes: u64,
    pub in_payload: u64,
    pub out_packets: u64,
    pub out_bytes: u64,
    pub out_payload: u64,
    pub clients_max: u16,
    pub sessions_expired: u64,
    /// Connections of clients, and those of them that have said CONNECT.
    pub sockets: u64,
    pub connects: u64,
}
