//! Deadlines at their edges, with `now` passed in.

use std::slice::from_ref;

use super::*;
use crate::{
    config::L1Mode,
    features::tests::{int, key, view as named},
    infer::Value,
    resilience::lease::Lease,
};

const SECOND: Duration = Duration::from_secs(1);

const L1_CONFIG: L1 = L1 {
    mode: L1Mode::Serve,
    capacity: 1 << 20,
    ttl: Duration::from_secs(60),
    stale_for: Duration::from_secs(600),
    negative_ttl: Duration::from_secs(5),
    warm_start: None,
};

fn view(id: u32, ttl: Duration, consistency: Consistency) -> Arc<View> {
    named(&format!("v{id}")).id(id).ttl(ttl).consistency(consistency).build()
}

fn memory(views: &[Arc<View>]) -> Memory {
    Memory::new(&L1_CONFIG, views)
}

fn row(value: i64) -> Arc<Row> {
    Arc::new(Row::new(Some(value), [int(value)].into()))
}

#[tokio::test]
async fn the_next_snapshot_finds_rows_of_the_same_definition_only() {
    let (v, w) = (named("v").build(), named("w").id(1).build());
    let before = memory(&[v.clone(), w]);
    let now = Instant::now();
    before.put(ViewId(0), &key(1), Some(row(5)), now);
    before.put(ViewId(1), &key(1), Some(row(6)), now);
    let views = [named("w").features(&["g"]).build(), named("v").id(1).build()];
    let after = before.next(&L1_CONFIG, &views);
    assert_eq!(after.get(ViewId(0), &key(1), now), Cached::Miss, "w's features changed");
    assert_eq!(after.get(ViewId(1), &key(1), now), Cached::Fresh(Some(row(5))));
    after.put(ViewId(0), &key(1), Some(row(7)), now);
    assert_eq!(before.get(ViewId(1), &key(1), now), Cached::Fresh(Some(row(6))));
    // Back to what it was.
    let again = after.next(&L1_CONFIG, from_ref(&v));
    assert_eq!(again.get(ViewId(0), &key(1), now), Cached::Fresh(Some(row(5))));
    // A definition that was not in force meanwhile: nobody told it of changes.
    let other = again.next(&L1_CONFIG, &[named("v").features(&["g"]).build()]);
    let back = other.next(&L1_CONFIG, &[v]);
    assert_eq!(back.get(ViewId(0), &key(1), now), Cached::Miss);
    back.put(ViewId(0), &key(1), Some(row(8)), Instant::now() + SECOND);
    assert_eq!(back.get(ViewId(0), &key(1), Instant::now() + SECOND), Cached::Fresh(Some(row(8))));
}

#[tokio::test]
async fn what_is_of_no_use_leaves_within_a_minute_or_so() {
    let memory = memory(&[view(0, 300 * SECOND, Consistency::Ttl), view(1, SECOND, Consistency::Immutable)]);
    let now = Instant::now();
    memory.put(ViewId(0), &key(1), Some(row(5)), now);
    memory.put(ViewId(0), &key(2), None, now);
    memory.put(ViewId(1), &key(1), Some(row(5)), now);
    assert_eq!(memory.rows(), 3);
    memory.tidy(now + 30 * SECOND);
    assert_eq!(memory.rows(), 3, "it is not looked yet");
    memory.tidy(now + 120 * SECOND);
    assert_eq!(memory.rows(), 2, "the absence is gone");
    memory.tidy(now + 700 * SECOND);
    assert_eq!(memory.rows(), 1, "what is for ever stays");
    assert!(memory.bytes() > 0 && memory.bytes() < 1000, "{}", memory.bytes());
}

#[tokio::test]
async fn a_row_of_a_third_of_the_capacity_is_kept() {
    let memory = memory(&[view(0, 300 * SECOND, Consistency::Ttl)]);
    let long = Arc::new(Row::new(Some(1), [Some(Value::String("x".repeat(300_000).into()))].into()));
    memory.put(ViewId(0), &key(1), Some(Arc::clone(&long)), Instant::now());
    assert_eq!(memory.get(ViewId(0), &key(1), Instant::now()), Cached::Fresh(Some(long)));
}

const TINY: Duration = Duration::from_nanos(1);

#[tokio::test]
async fn a_row_is_fresh_then_stale_then_gone_at_the_exact_instant() {
    let memory = memory(&[view(0, 300 * SECOND, Consistency::Ttl), view(1, 10 * SECOND, Consistency::Ttl)]);
    let (now, entity, row) = (Instant::now(), key(1), row(5));
    for (id, ttl) in [(ViewId(0), 60 * SECOND), (ViewId(1), 10 * SECOND)] {
        assert_eq!(memory.get(id, &entity, now), Cached::Miss);
        memory.put(id, &entity, Some(row.clone()), now);
        let stale_until = now + ttl + 600 * SECOND;
        assert_eq!(memory.get(id, &entity, now + ttl - TINY), Cached::Fresh(Some(row.clone())));
        assert_eq!(memory.get(id, &entity, now + ttl), Cached::Stale { row: row.clone(), age: ttl });
        let age = stale_until - TINY - now;
        assert_eq!(memory.get(id, &entity, stale_until - TINY), Cached::Stale { row: row.clone(), age });
        assert_eq!(memory.get(id, &entity, stale_until), Cached::Miss);
    }
    assert_eq!(memory.get(ViewId(0), &key(2), now), Cached::Miss, "another entity");
}

#[tokio::test]
async fn an_absence_is_believed_for_five_seconds_or_the_ttl_and_is_never_stale() {
    let views = [
        view(0, 300 * SECOND, Consistency::Ttl),
        view(1, 2 * SECOND, Consistency::Ttl),
        view(2, SECOND, Consistency::Immutable),
    ];
    let memory = memory(&views);
    let now = Instant::now();
    for (id, ttl) in [(0, 5 * SECOND), (1, 2 * SECOND), (2, 5 * SECOND)] {
        memory.put(ViewId(id), &key(1), None, now);
        assert_eq!(memory.get(ViewId(id), &key(1), now + ttl - TINY), Cached::Fresh(None), "{id}");
        assert_eq!(memory.get(ViewId(id), &key(1), now + ttl), Cached::Miss, "{id}");
    }
}

#[tokio::test]
async fn how_long_an_absence_is_believed_is_configured() {
    let config = L1 {
        mode: L1Mode::Serve,
        capacity: 1 << 20,
        ttl: 60 * SECOND,
        stale_for: 600 * SECOND,
        negative_ttl: 30 * SECOND,
        warm_start: None,
    };
    let memory = Memory::new(&config, &[view(0, 300 * SECOND, Consistency::Ttl)]);
    let now = Instant::now();
    memory.put(ViewId(0), &key(1), None, now);
    assert_eq!(memory.get(ViewId(0), &key(1), now + 30 * SECOND - TINY), Cached::Fresh(None));
    assert_eq!(memory.get(ViewId(0), &key(1), now + 30 * SECOND), Cached::Miss);
}

/// So long a fetch that any time before the expiry is soon: with a chance of one in ten million it is not.
const AGES: Duration = Duration::from_secs(600_000_000);

#[tokio::test]
async fn a_row_whose_end_is_near_is_to_be_fetched_again_and_one_of_no_end_never() {
    let memory = memory(&[view(0, 300 * SECOND, Consistency::Ttl), view(1, SECOND, Consistency::Immutable)]);
    let began = Instant::now();
    for id in [ViewId(0), ViewId(1)] {
        memory.put(id, &key(1), Some(row(5)), Fetch { began, took: AGES });
        memory.put(id, &key(2), None, Fetch { began, took: AGES });
    }
    assert_eq!(memory.get(ViewId(0), &key(1), began), Cached::Early(row(5)));
    assert_eq!(memory.get(ViewId(1), &key(1), began), Cached::Fresh(Some(row(5))));
    assert_eq!(
        memory.get(ViewId(0), &key(2), began),
        Cached::Fresh(None),
        "nobody waits for an absence to be confirmed"
    );
}

#[tokio::test]
async fn immutable_rows_stay_and_write_through_rows_are_not_kept_without_a_lease() {
    let memory = memory(&[view(0, SECOND, Consistency::Immutable), view(1, SECOND, Consistency::WriteThrough)]);
    let now = Instant::now();
    for id in [ViewId(0), ViewId(1)] {
        memory.put(id, &key(1), Some(row(5)), now);
        memory.put_doubtful(id, &key(2), &row(5), now);
    }
    assert_eq!(memory.get(ViewId(0), &key(1), now + 1_000_000 * SECOND), Cached::Fresh(Some(row(5))));
    assert_eq!(memory.get(ViewId(0), &key(2), now + 5 * SECOND), Cached::Miss);
    assert_eq!(memory.get(ViewId(1), &key(1), now), Cached::Miss);
    assert_eq!(memory.get(ViewId(1), &key(2), now), Cached::Miss);
}

#[tokio::test]
async fn write_through_rows_are_served_in_the_term_in_which_they_were_asked_for() {
    let lease = Arc::new(Lease::none());
    let memory = memory(&[view(0, 300 * SECOND, Consistency::WriteThrough)]).under(Arc::clone(&lease));
    let (id, entity, began) = (ViewId(0), key(1), Instant::now());
    let at = |millis| began + Duration::from_millis(millis);
    memory.put(id, &entity, Some(row(1)), began);
    lease.begin(30 * SECOND, began, at(0));
    assert_eq!(memory.get(id, &entity, at(1)), Cached::Miss, "nobody vouched for it when it was asked for");
    tokio::time::sleep(Duration::from_millis(2)).await;
    let asked = Instant::now();
    memory.put(id, &entity, Some(row(2)), asked);
    memory.put_doubtful(id, &key(2), &row(2), asked);
    assert_eq!(memory.get(id, &entity, asked), Cached::Fresh(Some(row(2))));
    assert_eq!(memory.get(id, &key(2), asked), Cached::Miss, "a row of L3's while L2 does not answer");
    assert_eq!(memory.get(id, &entity, began + 29 * SECOND), Cached::Miss, "the lease is out");
    lease.end();
    assert_eq!(memory.get(id, &entity, asked), Cached::Miss);
    lease.begin(30 * SECOND, asked, asked);
    assert_eq!(memory.get(id, &entity, asked), Cached::Miss, "of the term before");
}

#[tokio::test]
async fn a_doubtful_row_is_short_lived_and_never_replaces_a_newer_one() {
    let memory = memory(&[view(0, 300 * SECOND, Consistency::Ttl)]);
    let now = Instant::now();
    memory.put_doubtful(ViewId(0), &key(1), &row(5), now);
    assert_eq!(memory.get(ViewId(0), &key(1), now + 5 * SECOND - TINY), Cached::Fresh(Some(row(5))));
    let stale = Cached::Stale { row: row(5), age: 5 * SECOND };
    assert_eq!(memory.get(ViewId(0), &key(1), now + 5 * SECOND), stale);

    memory.put(ViewId(0), &key(2), Some(row(9)), now);
    let later = now + 70 * SECOND;
    memory.put_doubtful(ViewId(0), &key(2), &row(5), later);
    assert_eq!(memory.get(ViewId(0), &key(2), later), Cached::Stale { row: row(9), age: 70 * SECOND });
}

#[tokio::test]
async fn a_slow_fetch_does_not_undo_one_that_began_after_it() {
    let memory = memory(&[view(0, 300 * SECOND, Consistency::Ttl)]);
    let now = Instant::now();
    memory.put(ViewId(0), &key(1), Some(row(9)), now + SECOND);
    memory.put(ViewId(0), &key(1), None, now);
    memory.put(ViewId(0), &key(1), Some(row(5)), now);
    assert_eq!(memory.get(ViewId(0), &key(1), now + SECOND), Cached::Fresh(Some(row(9))));
    memory.put(ViewId(0), &key(1), None, now + 2 * SECOND);
    assert_eq!(memory.get(ViewId(0), &key(1), now + 2 * SECOND), Cached::Fresh(None));
}

#[test]
fn it_holds_no_more_bytes_than_it_may() {
    let memory = Memory::new(
        &L1 {
            mode: L1Mode::Serve,
            capacity: 100_000,
            ttl: 60 * SECOND,
            stale_for: 600 * SECOND,
            negative_ttl: 5 * SECOND,
            warm_start: None,
        },
        &[view(0, 300 * SECOND, Consistency::Ttl)],
    );
    let now = Instant::now();
    let text: Arc<str> = "x".repeat(1000).into();
    for id in 0..1000 {
        let row = Row::new(None, [Some(Value::String(text.clone()))].into());
        assert!(row.size() > 2000 && row.size() < 2200, "{}", row.size());
        memory.put(ViewId(0), &key(id), Some(Arc::new(row)), now);
    }
    memory.tidy(now);
    assert!(memory.bytes() <= 100_000, "{}", memory.bytes());
    assert!(memory.rows() > 30 && memory.rows() < 45, "{}", memory.rows());
}

#[tokio::test]
async fn what_was_fetched_before_a_push_stays_out_even_where_the_pushed_row_is_gone() {
    let memory = memory(&[view(0, 300 * SECOND, Consistency::Ttl)]);
    let began = Instant::now();
    memory.renew(ViewId(0), &key(1), (Some(row(6)), None), began + SECOND);
    memory.rows.clear();
    memory.put(ViewId(0), &key(1), Some(row(5)), began);
    memory.put_doubtful(ViewId(0), &key(1), &row(5), began);
    assert_eq!(memory.get(ViewId(0), &key(1), began + SECOND), Cached::Miss);
    memory.put(ViewId(0), &key(1), Some(row(7)), began + 2 * SECOND);
    assert_eq!(memory.get(ViewId(0), &key(1), began + 2 * SECOND), Cached::Fresh(Some(row(7))));
}

#[test]
fn of_rows_put_at_once_the_one_fetched_last_stays() {
    const USERS: i64 = 500;
    let config = L1 {
        mode: L1Mode::Serve,
        capacity: 1 << 30,
        ttl: 60 * SECOND,
        stale_for: SECOND,
        negative_ttl: 5 * SECOND,
        warm_start: None,
    };
    let memory = Memory::new(&config, &[view(0, 300 * SECOND, Consistency::Ttl)]);
    let start = Instant::now();
    let ready = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for order in 0..4_u32 {
            let (memory, ready) = (&memory, &ready);
            scope.spawn(move || {
                for user in 0..USERS {
                    ready.wait();
                    memory.put(ViewId(0), &key(user), Some(row(order.into())), start + TINY * order);
                }
            });
        }
    });
    for user in 0..USERS {
        assert_eq!(memory.get(ViewId(0), &key(user), start), Cached::Fresh(Some(row(3))), "user {user}");
    }
}

#[tokio::test]
async fn a_pushed_row_outlives_every_fetch_that_began_before_it() {
    let memory = memory(&[view(0, 300 * SECOND, Consistency::Ttl), view(1, SECOND, Consistency::WriteThrough)]);
    let (id, entity, began) = (ViewId(0), key(1), Instant::now());
    let at = began + SECOND;
    memory.renew(id, &entity, (Some(row(5)), Some(5)), at);
    memory.put(id, &entity, Some(row(4)), began);
    memory.put(id, &entity, None, began);
    assert_eq!(memory.get(id, &entity, at), Cached::Fresh(Some(row(5))));
    // Two pushes may be acknowledged in another order than they were stored in.
    memory.renew(id, &entity, (Some(row(4)), Some(4)), at + SECOND);
    assert_eq!(memory.get(id, &entity, at), Cached::Fresh(Some(row(5))));
    memory.put(id, &entity, Some(row(6)), at + SECOND);
    assert_eq!(memory.get(id, &entity, at + SECOND), Cached::Fresh(Some(row(6))));
    memory.renew(ViewId(1), &entity, (Some(row(5)), Some(5)), at);
    assert_eq!(memory.get(ViewId(1), &entity, at), Cached::Miss, "write_through rows are not kept");
}

#[tokio::test]
async fn a_row_that_is_to_be_read_again_is_not_served_from_an_earlier_fetch() {
    let memory = memory(&[view(0, 300 * SECOND, Consistency::Ttl)]);
    let (id, entity, began) = (ViewId(0), key(1), Instant::now());
    let at = began + SECOND;
    memory.put(id, &entity, Some(row(4)), began);
    memory.renew(id, &entity, (None, Some(5)), at);
    assert_eq!(memory.get(id, &entity, at), Cached::Miss);
    memory.put(id, &entity, Some(row(4)), began);
    memory.put_doubtful(id, &entity, &row(4), began);
    assert_eq!(memory.get(id, &entity, at), Cached::Miss);
    memory.put(id, &entity, Some(row(5)), at + SECOND);
    assert_eq!(memory.get(id, &entity, at + SECOND), Cached::Fresh(Some(row(5))));
}

#[tokio::test]
async fn a_copy_that_is_behind_undoes_no_fresh_row_and_is_believed_once_that_is_over() {
    let view = view(0, 60 * SECOND, Consistency::Ttl);
    let (memory, behind) = (memory(std::slice::from_ref(&view)), memory(&[view]).before_replicas());
    let (now, id, entity) = (Instant::now(), ViewId(0), key(1));
    for memory in [&memory, &behind] {
        memory.put(id, &entity, Some(row(6)), now);
        memory.put(id, &entity, Some(row(5)), now + SECOND);
    }
    assert_eq!(memory.get(id, &entity, now + SECOND), Cached::Fresh(Some(row(5))), "a store is believed");
    assert_eq!(behind.get(id, &entity, now + SECOND), Cached::Fresh(Some(row(6))));
    behind.put(id, &entity, Some(row(7)), now + 2 * SECOND);
    assert_eq!(behind.get(id, &entity, now + 2 * SECOND), Cached::Fresh(Some(row(7))));
    // The row was taken back in the store itself; that is told as late as anything else.
    behind.put(id, &entity, Some(row(5)), now + 62 * SECOND);
    assert_eq!(behind.get(id, &entity, now + 62 * SECOND), Cached::Fresh(Some(row(5))));
    behind.put(id, &entity, None, now + 63 * SECOND);
    assert_eq!(behind.get(id, &entity, now + 63 * SECOND), Cached::Fresh(None), "masters alone say that there is none");
}
