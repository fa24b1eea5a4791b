//! Failback probes: does a server answer TCP? One at a time and bridge, beside the link and
//! without a byte sent.

use super::core::Core;
use super::resolver::{ADDRS_MAX, Addrs};
use super::transport::Transport;
use crate::gateway::verbs::Event;
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;
use mio::{Registry, Token};

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // A few of them, made once.
enum Probe {
    Idle,
    /// Its name is being looked up.
    Resolving {
        deadline: Instant,
    },
    Dialing {
        deadline: Instant,
        transport: Transport,
        rest: Addrs,
    },
}

#[derive(Debug)]
pub(super) struct Probes {
    probes: Box<[Probe]>,
    token: usize,
}

impl Probes {
    pub(super) fn new(count: usize, token: usize) -> Self {
        Self { probes: (0..count).map(|_| Probe::Idle).collect(), token }
    }

    /// A name is being looked up for `bridge`; the answer is due before `deadline`.
    pub(super) fn begin(&mut self, bridge: BridgeId, deadline: Instant) {
        if let Some(probe) = self.probes.get_mut(usize::from(bridge.0)) {
            *probe = Probe::Resolving { deadline };
        }
    }

    /// Nobody wants to know any more.
    pub(super) fn cancel(&mut self, bridge: BridgeId) {
        if let Some(probe) = self.probes.get_mut(usize::from(bridge.0)) {
            *probe = Probe::Idle;
        }
    }

    /// The name's addresses.
    pub(super) fn resolved(
        &mut self,
        now: Instant,
        registry: &Registry,
        bridge: BridgeId,
        addrs: &Addrs,
        interface: Option<&str>,
        core: &mut impl Core,
    ) {
        let at = usize::from(bridge.0);
        if let Some(Probe::Resolving { deadline }) = self.probes.get(at) {
            let deadline = *deadline;
            self.dial(now, registry, bridge, deadline, addrs, interface, core);
        }
    }

    #[allow(clippy::too_many_arguments)] // A private step of two callers.
    fn dial(
        &mut self,
        now: Instant,
        registry: &Registry,
        bridge: BridgeId,
        deadline: Instant,
        addrs: &Addrs,
        interface: Option<&str>,
        core: &mut impl Core,
    ) {
        let at = usize::from(bridge.0);
        self.probes[at] = Probe::Idle;
        for (skip, addr) in addrs.iter().enumerate().take(ADDRS_MAX) {
            let dialled =
                Transport::dial(*addr, interface, Duration::ZERO).and_then(|mut transport| {
                    transport.register(registry, Token(self.token + at))?;
                    Ok(transport)
                });
            if let Ok(transport) = dialled {
                let rest = addrs.iter().skip(skip + 1).copied().collect();
                self.probes[at] = Probe::Dialing { deadline, transport, rest };
                return;
            }
        }
        core.handle(now, Event::Probed { bridge, ok: false });
    }

    /// Something happened on the socket of bridge `at`.
    pub(super) fn event(
        &mut self,
        now: Instant,
        registry: &Registry,
        at: usize,
        interface: Option<&str>,
        core: &mut impl Core,
    ) {
        let Ok(bridge) = u16::try_from(at).map(BridgeId) else { return };
        let Some(Probe::Dialing { deadline, transport, rest }) = self.probes.get_mut(at) else {
            return;
        };
        match transport.establish() {
            Ok(false) => {}
            Ok(true) => {
                self.probes[at] = Probe::Idle;
                core.handle(now, Event::Probed { bridge, ok: true });
            }
            Err(_) => {
                let (deadline, rest) = (*deadline, rest.clone());
                self.dial(now, registry, bridge, deadline, &rest, interface, core);
            }
        }
    }

    /// Probes that took too long; their look-ups end by themselves.
    pub(super) fn expire(&mut self, now: Instant, core: &mut impl Core) {
        for (at, probe) in self.probes.iter_mut().enumerate() {
            if probe.deadline() > now {
                continue;
            }
            *probe = Probe::Idle;
            if let Ok(bridge) = u16::try_from(at).map(BridgeId) {
                core.handle(now, Event::Probed { bridge, ok: false });
            }
        }
    }

    pub(super) fn poll_at(&self) -> Instant {
        self.probes.iter().map(Probe::deadline).min().unwrap_or(Instant::NEVER)
    }
}

impl Probe {
    fn deadline(&self) -> Instant {
        match self {
            Self::Idle => Instant::NEVER,
            Self::Resolving { deadline } | Self::Dialing { deadline, .. } => *deadline,
        }
    }
}
