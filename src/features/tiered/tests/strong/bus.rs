//! What gateways tell each other: rows that nobody waits for, and what was missed while one did not hear.

use super::*;

#[tokio::test]
async fn other_gateways_hear_of_pushed_rows_that_nobody_waits_for_and_of_what_an_operator_drops() {
    let (server, v) = (Server::start(), view("v").build());
    put(&server, &v, 1, &row(100, [int(1)]));
    let [a, b] = [gateway(&server, &v).await, gateway(&server, &v).await];
    assert_eq!(b.reads(1).await, int(1));
    a.pushes(vec![offer(1, 200, 2)]).await.unwrap();
    eventually("it is dropped", async || b.reads(1).await == int(2)).await;
    let scopes = [
        Scope::Rows(vec![(ViewId(0), key(1))]),
        Scope::View(ViewId(0)),
        Scope::Prefix(ViewId(0), 1_i64.to_le_bytes().into()),
        Scope::All,
    ];
    for (scope, value) in scopes.iter().zip(3..) {
        put(&server, &v, 1, &row(300 + value, [int(value)]));
        assert_eq!(b.reads(1).await, int(value - 1), "it is kept");
        a.invalidate(scope, Origin::Admin, None).await;
        assert!(a.tell_of(scope));
        eventually("it is dropped", async || b.reads(1).await == int(value)).await;
    }
}

#[tokio::test]
async fn what_a_redis_that_hung_and_died_did_not_answer_is_told_once_it_is_back() {
    let (mut server, v) = (Server::start(), view("v").build());
    let store = gateway(&server, &v).await;
    server.freeze();
    store.shared.leases.tell(&v.stored, [key(1)].iter(), SystemTime::now());
    assert!(store.tell_of(&Scope::View(ViewId(0))), "nothing is known of that yet");
    eventually("it is found to hang", async || !store.lease().connected).await;
    // While nobody is connected to, more is to be told.
    store.shared.leases.tell(&v.stored, [key(2)].iter(), SystemTime::now());
    assert!(!store.tell_of(&Scope::All));
    server.restart();
    let words = async || server.ask::<Option<u64>>(&[b"HGET", b"{weir:p}:leases", b"words"]);
    eventually("both words are said", async || words().await == Some(2)).await;
    eventually("and the rows", async || server.calls("publish") >= 3).await;
}

/// The connection on which a gateway hears the others.
fn ear(server: &Server) -> Option<String> {
    let clients: String = server.ask(&[b"CLIENT", b"LIST", b"TYPE", b"pubsub"]);
    clients.split_whitespace().find_map(|field| field.strip_prefix("id=")).map(str::to_owned)
}

#[tokio::test]
async fn what_was_told_while_a_gateway_did_not_hear_is_not_missed() {
    let (server, v) = (Server::start(), view("v").build());
    put(&server, &v, 1, &row(100, [int(1)]));
    let store = gateway(&server, &v).await;
    assert_eq!(store.reads(1).await, int(1));
    put(&server, &v, 1, &row(200, [int(2)]));
    assert_eq!(store.reads(1).await, int(1), "it is kept");
    server.ask::<u64>(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]);
    eventually("it is read anew", async || store.reads(1).await == int(2)).await;
}

#[tokio::test]
async fn where_redis_tells_of_rows_only_what_an_operator_said_is_missed() {
    let (server, v) = (Server::start(), view("v").build());
    put(&server, &v, 1, &row(100, [int(1)]));
    let mut features = features("p", from_ref(&v), redis(&server, LONG), None);
    features.invalidate.tracking = true;
    let store = Store::open(&crate::features::tests::config(features, Vec::new()), Tasks::default()).await.unwrap();
    let current = Arc::new(store.clone());
    let test = async {
        store.tracking().unwrap().up().await;
        eventually("it hears the others", async || store.lease().connected).await;
        assert_eq!(store.reads(1).await, int(1));
        let asked = server.calls("hmget");
        let before = ear(&server);
        server.ask::<u64>(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]);
        let is_back = async || store.lease().connected && ear(&server).is_some_and(|ear| Some(ear) != before);
        eventually("it hears them again", is_back).await;
        assert_eq!((store.reads(1).await, server.calls("hmget")), (int(1), asked), "its row is vouched for");

        // Said, and not heard.
        let mut said = ::redis::pipe();
        said.atomic().cmd("HINCRBY").arg("{weir:p}:leases").arg("words").arg(1).ignore();
        said.cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").ignore();
        said.exec(&mut server.client()).unwrap();
        let is_read = async || {
            store.reads(1).await;
            server.calls("hmget") > asked
        };
        eventually("it is read anew", is_read).await;
    };
    tokio::select! {
        () = Store::listen(|| Arc::clone(&current)) => panic!("it listens no longer"),
        () = test => {}
    }
}
