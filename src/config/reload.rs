//! A configuration read again, beside the one that is in use: what of it can take effect at once,
//! and what has sized something at start and needs a restart.

use super::{Config, Listener};

/// What becomes of a configuration that was read again.
#[derive(Clone, Debug)]
pub struct Reload {
    /// What is in use from here on: the new values where they can be, the old ones elsewhere. The
    /// bridges are those of the new file, in its order.
    pub config: Config,
    /// Keys, but those of bridges, that have new values from here on.
    pub changed: Vec<&'static str>,
    /// Keys whose new values need a restart.
    pub restart: Vec<&'static str>,
}

/// Takes what can change at run time from `new`.
pub fn reload(old: &Config, new: &Config) -> Reload {
    let mut config = Config { bridges: new.bridges.clone(), ..old.clone() };
    let mut changed = Vec::new();
    let mut restart = Vec::new();
    macro_rules! live {
        ($($key:literal $($field:ident).+;)*) => { $(
            if config.$($field).+ != new.$($field).+ {
                changed.push($key);
                config.$($field).+.clone_from(&new.$($field).+);
            }
        )* };
    }
    macro_rules! fixed {
        ($($key:literal $($field:ident).+;)*) => { $(
            if old.$($field).+ != new.$($field).+ {
                restart.push($key);
            }
        )* };
    }
    live! {
        "log.level" log_level;
        "log.stats_interval" stats_interval;
        "limit.rules" limit.rules;
        "limit.keepalive_max" limit.keepalive_max;
        "limit.sessions_per_user" limit.sessions_per_user;
        "limit.will_bytes" limit.will_bytes;
        "store.flush_after" store.flush_after;
        "store.retained_after" store.retained_after;
        "store.overflow" store.overflow;
        "session.max_messages" session_max_messages;
        "session.max_bytes" session_max_bytes;
        "session.expiry" session_expiry;
        "auth.password_file" auth.users;
        "auth.acl_file" auth.acl;
    }
    fixed! {
        "node.name" node_name;
        "limit.clients" limit.clients;
        "limit.sessions" limit.sessions;
        "limit.subscriptions" limit.subscriptions;
        "limit.bridges" limit.bridges;
        "limit.packet_size" limit.packet_bytes;
        "limit.large_buffers" limit.large_buffers;
        "limit.topic_bytes" limit.topic_bytes;
        "limit.client_id_bytes" limit.client_id_bytes;
        "limit.inflight" limit.inflight;
        "limit.retained" limit.retained;
        "limit.retained_bytes" limit.retained_bytes;
        "ring.messages" ring_messages;
        "ring.bytes" ring_bytes;
        "ack" ack;
        "store.path" store.path;
        "store.max_bytes" store.max_bytes;
        "store.sync" store.sync;
        "store.sessions_share" store.sessions_share;
    }
    let (mut max_clients, mut anonymous) = (false, false);
    let mut same = old.listeners.len() == new.listeners.len();
    // Who is let in changes where the door stays, whatever becomes of the others.
    for door in &mut config.listeners {
        match new.listeners.iter().find(|new| is_door(new, door)) {
            Some(new) => {
                max_clients |= door.max_clients != new.max_clients;
                anonymous |= door.anonymous != new.anonymous;
                door.clone_from(new);
            }
            None => same = false,
        }
    }
    if max_clients {
        changed.push("listener.NAME.max_clients");
    }
    if anonymous {
        changed.push("listener.NAME.anonymous");
    }
    if !same {
        restart.push("listener.NAME.url");
    }
    Reload { config, changed, restart }
}

/// The same name at the same address.
fn is_door(one: &Listener, other: &Listener) -> bool {
    (&one.name, &one.host, one.port) == (&other.name, &other.host, other.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn config(text: &str) -> Config {
        let text = format!("store.path = /x\n{text}");
        load("t", &text, &mut |_| Err(String::new()), "n").unwrap().0
    }

    #[test]
    fn what_sizes_memory_keeps_its_value_and_needs_a_restart() {
        let old = config("ring.messages = 100\nsession.max_messages = 5\n");
        let new = config("ring.messages = 200\nsession.max_messages = 6\nlog.level = warn\n");
        let Reload { config, changed, restart } = reload(&old, &new);
        assert_eq!((config.ring_messages, config.session_max_messages), (100, 6));
        assert_eq!(config.log_level, log::LevelFilter::Warn);
        assert_eq!(changed, ["log.level", "session.max_messages"]);
        assert_eq!(restart, ["ring.messages"]);
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let one = config("bridge.b.server = mqtt://h\nlistener.l.url = mqtt://127.0.0.1:1\n");
        let again = reload(&one, &one);
        assert!(again.changed.is_empty() && again.restart.is_empty());
        assert_eq!(again.config.bridges, one.bridges);
    }

    #[test]
    fn a_listener_elsewhere_needs_a_restart_and_its_limit_does_not() {
        let old = config("listener.l.url = mqtt://127.0.0.1:1\n");
        let moved = config("listener.l.url = mqtt://127.0.0.1:2\nlistener.l.max_clients = 3\n");
        let Reload { config: kept, restart, .. } = reload(&old, &moved);
        assert_eq!((kept.listeners[0].port, kept.listeners[0].max_clients), (1, None));
        assert_eq!(restart, ["listener.NAME.url"]);
        let limited = config("listener.l.url = mqtt://127.0.0.1:1\nlistener.l.max_clients = 3\n");
        let Reload { config: kept, changed, .. } = reload(&old, &limited);
        assert_eq!(kept.listeners[0].max_clients, Some(3));
        assert_eq!(changed, ["listener.NAME.max_clients"]);
    }

    #[test]
    fn a_new_listener_holds_up_no_other() {
        let old = config("listener.l.url = mqtt://127.0.0.1:1\n");
        let new = "listener.n.url = mqtt://127.0.0.1:2\nlistener.l.url = mqtt://127.0.0.1:1\n";
        let new = config(&format!("{new}listener.l.max_clients = 3\n"));
        let Reload { config: kept, changed, restart } = reload(&old, &new);
        let listeners: Vec<_> = kept.listeners.iter().map(|l| (l.port, l.max_clients)).collect();
        assert_eq!(listeners, [(1, Some(3))]);
        assert_eq!(changed, ["listener.NAME.max_clients"]);
        assert_eq!(restart, ["listener.NAME.url"]);
    }
}
