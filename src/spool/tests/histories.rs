//! Any history of a spool is what a plain list of entries would have made of it.

use super::*;

/// A step of a history, its numbers chosen modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, body: u8, once: bool },
    Claim,
    Finish(u8),
    Again(u8, u8),
    Park(u8),
    GiveBack(u8, u8),
    Replay(u8),
    Forget(u8),
    Pass(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..8u8, 0..2u8, any::<bool>()).prop_map(|(key, body, once)| Step::Put { key, body, once }),
        4 => Just(Step::Claim),
        2 => any::<u8>().prop_map(Step::Finish),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(which, delay)| Step::Again(which, delay)),
        1 => any::<u8>().prop_map(Step::Park),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(which, delay)| Step::GiveBack(which, delay)),
        1 => any::<u8>().prop_map(Step::Replay),
        1 => any::<u8>().prop_map(Step::Forget),
        3 => prop_oneof![0..150u16, 0..12_000u16].prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the stores are held to.
#[derive(Default)]
struct Model(Vec<Entry>);

impl Model {
    fn at(&mut self, id: &str) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| *entry.id == *id)
    }

    fn put(&mut self, new: &New, now: Millis) -> Result<Put, &'static str> {
        self.0.retain(|entry| now < entry.expires);
        let digest = new.request.digest();
        match self.0.iter().find(|entry| entry.key == new.key) {
            Some(entry) if entry.digest != digest => return Err("other"),
            Some(entry) => return Ok(Put::Known(entry.id.clone())),
            None if self.0.len() as u64 >= terms().max_entries => return Err("full"),
            None => {}
        }
        let (id, key, why, state) = (new.id.clone(), new.key.clone(), new.why, State::Waiting { due: now });
        let (received, expires) = (now, now + KEEP);
        self.0.push(Entry {
            id,
            key,
            model: "m".into(),
            why,
            once: new.once,
            digest,
            received,
            expires,
            attempts: 0,
            claims: 0,
            state,
        });
        Ok(Put::Kept)
    }

    fn claim(&mut self, now: Millis) -> HashSet<(Arc<str>, u64, u32, bool)> {
        self.0.retain(|entry| now < entry.expires);
        for entry in &mut self.0 {
            if matches!(entry.state, State::Running { until, .. } if until <= now) {
                entry.overdue(now, terms().retry.max_retries);
            }
        }
        let due = self.0.iter_mut().filter(|entry| matches!(entry.state, State::Waiting { due } if due <= now));
        let claim = |entry: &mut Entry| {
            entry.claim(gateway(), now + 100);
            (entry.id.clone(), entry.claims, entry.attempts, entry.once)
        };
        due.map(claim).collect()
    }
}

/// Lives a history on a store beside the model; all that either says, and all that is kept, must be the same.
async fn live(spool: &Spool, steps: &[Step]) {
    let mut model = Model::default();
    let (mut claims, mut ids, mut now) = (Vec::<Claimed>::new(), Vec::<Arc<str>>::new(), 1_000_000);
    for step in steps {
        let pick = |which: u8, count: usize| usize::from(which) % count.max(1);
        match *step {
            Step::Put { key, body, once } => {
                let new = New { once, ..new("m", &key.to_string(), &body.to_string()) };
                let said = spool.put(&new, now).await.map_err(|error| match error {
                    Error::Full(_) => "full",
                    Error::OtherRequest(_) => "other",
                    error => panic!("{error}"),
                });
                assert_eq!(said, model.put(&new, now));
                ids.push(new.id);
            }
            Step::Claim => {
                let claimed = spool.claim((&["m".into()], 100), &gateway(), (now, now + 100)).await.unwrap();
                let said: HashSet<_> = claimed.iter().map(|c| (c.id.clone(), c.claim, c.attempts, c.once)).collect();
                assert_eq!(said, model.claim(now));
                claims.extend(claimed);
            }
            Step::Finish(which) => {
                let Some(id) = ids.get(pick(which, ids.len())) else { continue };
                let said = spool.finish(id, &reply("r"), now).await.unwrap();
                let entry = model.at(id).map(|entry| entry.finish(now, terms().keep_for));
                assert_eq!(said, entry.unwrap_or(Finished::Gone));
            }
            Step::Again(..) | Step::Park(_) | Step::GiveBack(..) => {
                let (Step::Again(which, _) | Step::Park(which) | Step::GiveBack(which, _)) = *step else { continue };
                let Some(claimed) = claims.get(pick(which, claims.len())) else { continue };
                let (said, entry) = (release(spool, step, claimed, now).await, model.at(&claimed.id));
                let held = entry.map(|entry| match failed(step, now) {
                    Some(failed) => entry.fail(claimed.claim, failed, now),
                    None => entry.give_back(claimed.claim, given_back(step, now)),
                });
                assert_eq!(said, held.unwrap_or(Held::No));
            }
            Step::Replay(which) => {
                let Some(id) = ids.get(pick(which, ids.len())) else { continue };
                let replayed = model.at(id).map_or(Replayed::Gone, |entry| entry.replay(now));
                assert_eq!(spool.replay(id, now).await.unwrap(), replayed);
            }
            Step::Forget(which) => {
                let Some(id) = ids.get(pick(which, ids.len())) else { continue };
                assert_eq!(spool.forget(id).await.unwrap(), model.at(id).is_some());
                model.0.retain(|entry| entry.id != *id);
            }
            Step::Pass(millis) => now += Millis::from(millis),
        }
        same(spool, &model).await;
    }
}

fn failed(step: &Step, now: Millis) -> Option<Failed> {
    match *step {
        Step::Again(_, delay) => Some(Failed::Again(now + Millis::from(delay))),
        Step::Park(_) => Some(Failed::Park("poisoned".into())),
        _ => None,
    }
}

fn given_back(step: &Step, now: Millis) -> Millis {
    if let Step::GiveBack(_, delay) = *step { now + Millis::from(delay) } else { now }
}

async fn release(spool: &Spool, step: &Step, claimed: &Claimed, now: Millis) -> Held {
    match failed(step, now) {
        Some(failed) => spool.fail(claimed, failed, now).await.unwrap(),
        None => spool.give_back(claimed, given_back(step, now), now).await.unwrap(),
    }
}

async fn same(spool: &Spool, model: &Model) {
    let (mut kept, mut expected) = (spool.list(None, 100).await.unwrap(), model.0.clone());
    kept.sort_by(|a, b| a.id.cmp(&b.id));
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(kept, expected);
    let depth = spool.depth().await.unwrap();
    let count = |standing| expected.iter().filter(|entry| entry.state.standing() == standing).count() as u64;
    assert_eq!(depth.entries, Standing::ALL.map(count));
    assert_eq!(depth.bytes == 0, expected.is_empty());
    let waiting = expected.iter().filter(|entry| entry.state.standing() == Standing::Waiting);
    assert_eq!(depth.oldest_waiting, waiting.map(|entry| entry.received).min());
}

/// Random histories on a kind of store.
fn histories(cases: u32, open: impl Fn() -> Spool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let lived = runner.run(&steps(), |steps| {
        runtime.block_on(live(&open(), &steps));
        Ok(())
    });
    lived.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn every_history_in_the_embedded_store_is_the_models() {
    histories(64, || Spool::over(Store::Embedded(embedded::Embedded::open(None, terms()).unwrap()), terms()));
}

#[test]
fn every_history_in_redis_is_the_models() {
    histories(64, || shared(&single(), terms()));
}

#[test]
fn every_history_in_a_cluster_is_the_models() {
    histories(8, || shared(&redis(&servers().cluster.urls(), RedisMode::Cluster), terms()));
}
