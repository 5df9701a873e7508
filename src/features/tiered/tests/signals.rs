//! What the store tells of itself: the clock is paused, and tests lead the fetches that lookups wait for.

use futures_util::future::join_all;
use tokio::{task::yield_now, time::advance};

use super::*;
use crate::{
    features::{
        online::{Terms, Wish},
        tiered::fly::{At, Behind, Done, Id, Progress},
    },
    resilience::flight::{Joined, Lead},
};

const MS: Duration = Duration::from_millis(1);

/// On an L3 that has nothing and would be waited for.
async fn store() -> Store {
    open(&[view("v").build()], L2Config::Embedded { path: None, ttl: LONG }, Some(Scripted::default())).await
}

/// As many lookups of one row, whose fetch somebody else leads as the script has it; it fails, so that nothing keeps anything.
async fn look_up(store: &Store, count: usize, script: impl AsyncFnOnce(&Lead<Id, Progress>)) {
    let joined = store.shared.flights.join(&Arc::default(), (ViewId(0), key(1)), Progress::AtL2);
    let Joined::Leader(lead) = joined else { panic!("somebody leads already") };
    let leading = async {
        heard().await;
        script(&lead).await;
        lead.end(Progress::Done(Done::Failed(At::L2, None)));
    };
    tokio::join!(join_all((0..count).map(|_| store.users(&[1]))), leading);
}

/// Lets everybody hear what was said.
async fn heard() {
    for _ in 0..3 {
        yield_now().await;
    }
}

fn is_slow(store: &Store) -> bool {
    store.signals(Instant::now()).slow
}

#[tokio::test(start_paused = true)]
async fn lookups_are_slow_where_more_than_one_in_a_hundred_waits_for_l2_too_long() {
    let store = store().await;
    look_up(&store, 19, async |_| advance(101 * MS).await).await;
    assert!(!is_slow(&store), "few prove nothing");
    look_up(&store, 1, async |_| advance(100 * MS).await).await;
    assert!(is_slow(&store), "nineteen of twenty");
    assert!(!store.signals(Instant::now() + 1000 * MS).slow, "quiet begins with the last slow one");
}

#[tokio::test(start_paused = true)]
async fn lookups_that_take_just_what_they_may_are_not_slow() {
    let store = store().await;
    look_up(&store, 25, async |_| advance(100 * MS).await).await;
    assert!(!is_slow(&store));
}

/// As many lookups that have so long, and would take twice that.
async fn cut_off(store: &Store, count: usize, after: Duration) {
    let joined = store.shared.flights.join(&Arc::default(), (ViewId(0), key(1)), Progress::AtL2);
    let Joined::Leader(lead) = joined else { panic!("somebody leads already") };
    let by = Deadline::after(Instant::now(), after);
    let lookups = join_all((0..count).map(|_| store.ask(&[1], |how| how.by = by)));
    let leading = async {
        heard().await;
        advance(after + MS).await;
        heard().await;
        lead.end(Progress::Done(Done::Failed(At::L2, None)));
    };
    tokio::join!(lookups, leading);
}

/// The example of the README has 70 ms for them.
#[tokio::test(start_paused = true)]
async fn lookups_that_their_deadline_cuts_off_are_slow_however_short_it_is() {
    let store = store().await;
    cut_off(&store, 25, 70 * MS).await;
    assert!(is_slow(&store));
}

#[tokio::test(start_paused = true)]
async fn callers_who_wait_for_no_lookup_make_none_slow() {
    let store = store().await;
    cut_off(&store, 100, 4 * MS).await;
    cut_off(&store, 100, Duration::ZERO).await;
    assert!(!is_slow(&store));
}

#[tokio::test(start_paused = true)]
async fn what_l3_takes_is_apart() {
    let store = store().await;
    let l3 = async |lead: &Lead<Id, Progress>| {
        lead.publish(Progress::AtL3(Behind::Absence));
        heard().await;
        advance(10_000 * MS).await;
    };
    look_up(&store, 25, async |lead| {
        advance(50 * MS).await;
        l3(lead).await;
    })
    .await;
    assert!(!is_slow(&store));
    // The lookups are counted when L2 was through: that was ten seconds ago.
    look_up(&store, 25, async |lead| {
        advance(150 * MS).await;
        lead.publish(Progress::AtL3(Behind::Absence));
        heard().await;
    })
    .await;
    assert!(is_slow(&store));
}

#[tokio::test(start_paused = true)]
async fn another_registry_s_store_knows_of_the_same_lookups() {
    let store = store().await;
    look_up(&store, 20, async |_| advance(101 * MS).await).await;
    let views = [view("v").build()];
    let features = features("p", &views, L2Config::Embedded { path: None, ttl: LONG }, None);
    let next = store.next(&crate::features::tests::config(features, vec![model(&views, false)])).await;
    assert!(is_slow(&next));
}

#[tokio::test(start_paused = true)]
async fn what_the_feature_server_reads_is_not_counted() {
    let store = store().await;
    let joined = store.shared.flights.join(&Arc::default(), (ViewId(0), key(1)), Progress::AtL2);
    let Joined::Leader(lead) = joined else { panic!("somebody leads already") };
    let column = EntityColumn::Rows([EntityValue::Int64(1)].into());
    let wishes = [Wish { view: ViewId(0), columns: &[&column] }];
    let terms = || Terms { worker: WorkerId(0), caching: Caching::Allowed, by: Deadline::after(Instant::now(), LONG) };
    let leading = async {
        heard().await;
        advance(101 * MS).await;
        drop(lead);
    };
    tokio::join!(join_all((0..25).map(|_| store.read(1, &wishes, terms()))), leading);
    assert!(!is_slow(&store));
}

#[tokio::test]
async fn the_embedded_store_can_always_be_asked() {
    assert!(!store().await.signals(Instant::now()).unavailable);
}
