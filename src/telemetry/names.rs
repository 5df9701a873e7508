//! Every metric Weir exports: a closed list, described once.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; ends in `_total`.
    Counter,
    /// A level.
    Gauge,
    /// Buckets; every histogram has them set in `buckets`.
    Histogram,
}

/// A metric's name, kind and help.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As scraped.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// One sentence for `# HELP`.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, $help:literal;)+) => {
        $(#[doc = $help] pub const $constant: &str = $name;)+

        /// All of them.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, help: $help }),+];
    };
}

metrics! {
    BUILD_INFO = "weir_build_info", Gauge, "1, labelled with the version.";
    REQUESTS = "weir_requests_total", Counter, "Inference requests answered, by model, protocol and HTTP status; a gRPC status held with its answer counts as the HTTP status it corresponds to, that of a streamed answer as 200, one kept for later as 202.";
    REQUEST_DURATION = "weir_request_duration_seconds", Histogram, "From a request's head until its answer is ready to be sent (a streamed one: its head), an error or the caller leaving, by model.";
    STAGE_DURATION = "weir_stage_duration_seconds", Histogram, "Time spent in each stage of the path: admission (waiting for a slot), features, enrich, predict (all attempts).";
    ADDED_LATENCY = "weir_added_latency_seconds", Histogram, "An answered request's time in Weir less its time at the model, by model.";
    ANSWERS = "weir_answers_total", Counter, "Answers by model and the level that answered; reject: errors with weir-level 4. What is kept for later counts once there is an answer, in weir_spool_replays_total.";
    FEATURE_LOOKUPS = "weir_feature_lookups_total", Counter, "Row lookups by layer (l1, l2, l3) and outcome (hit, stale_hit, negative_hit, miss, error, timeout, unreadable: what is stored is no row).";
    FEATURE_LOOKUP_DURATION = "weir_feature_lookup_duration_seconds", Histogram, "One request's lookups at one layer.";
    FEATURE_AGE = "weir_feature_age_seconds", Histogram, "Age of the event behind each row served, by view.";
    FEATURE_ROWS_AHEAD = "weir_feature_rows_ahead_total", Counter, "Rows whose event is more than a minute ahead of this machine's clock, by view and where they were seen (read, pushed).";
    FEATURE_STAND_INS = "weir_feature_stand_ins_total", Counter, "Rows of L3 used because L2 could not say what it has, by view.";
    FEATURE_DEFAULTS = "weir_feature_defaults_total", Counter, "Rows in which defaults stood in, by view and reason (not_found, null, outside_max_age, unavailable).";
    FEATURE_HIT_RATIO = "weir_feature_hit_ratio", Gauge, "Share of row lookups that the layer answered, since start.";
    FEATURE_HIT_RATIO_TARGET = "weir_feature_hit_ratio_target", Gauge, "The hit ratio the layer is expected to reach.";
    FEATURE_EARLY_REFRESHES = "weir_feature_early_refreshes_total", Counter, "Rows fetched again shortly before they would have expired.";
    L1_OBSERVED = "weir_l1_observed_total", Counter, "With l1.mode observe: what L1 would have said, beside what the layers behind it said (match, mismatch, miss).";
    L1_OBSERVED_HIT_RATIO = "weir_l1_observed_hit_ratio", Gauge, "With l1.mode observe: the share of lookups that L1 would have answered since start.";
    HOT_KEYS = "weir_hot_keys", Gauge, "Keys that are hot now.";
    HOT_KEY_COPIES = "weir_hot_key_copies", Gauge, "Copies of hot keys on other masters that this gateway reads.";
    HOT_KEY_GATEWAYS = "weir_hot_key_gateways", Gauge, "Gateways whose counts decide which keys are hot, this one among them.";
    HOT_KEY_COPY_READS = "weir_hot_key_copy_reads_total", Counter, "Row reads that went to a copy, by outcome: hit; miss and error (the key itself was read then).";
    HOT_KEY_COPY_FILLS = "weir_hot_key_copy_fills_total", Counter, "Copies that were to be made, by outcome: made, adopted (another gateway made it lately), waits (another gateway is at it), outdated (it was invalidated meanwhile), absent (the key has no rows), error.";
    HOT_KEY_COPY_REMOVALS = "weir_hot_key_copy_removals_total", Counter, "Keys all of whose possible copies were to be removed, by outcome: removed, error.";
    HOT_KEY_EXCHANGES = "weir_hot_key_exchanges_total", Counter, "Exchanges of counts with the other gateways, one a second, by outcome: told, error.";
    HOT_KEY_REFRESHES = "weir_hot_key_refreshes_total", Counter, "Rows of hot keys fetched before they expired in L1, or put there.";
    FEATURE_COALESCED = "weir_feature_coalesced_total", Counter, "Lookups that waited for another request's fetch of the same row.";
    FEATURE_RETRIES = "weir_feature_retries_total", Counter, "Rows asked for again after L2 failed to answer.";
    FEATURE_RETRIES_DENIED = "weir_feature_retries_denied_total", Counter, "Rows that L2 failed to say and that were not asked for again, the budget of retries being spent.";
    FEATURE_WRITE_BACKS = "weir_feature_write_backs_total", Counter, "Rows written back from L3 to L2, by outcome (written, mended: over one whose event time could not be read, older, error).";
    FEATURE_PUSHES = "weir_feature_pushes_total", Counter, "Rows pushed through the feature server's API, by outcome (written, mended: over one whose event time could not be read, older: a stored one is as new, error: not acknowledged, and may be stored all the same).";
    LEASE_HELD = "weir_lease_held", Gauge, "Whether this gateway holds the lease under which L1 keeps rows of write_through views (1), or not (0); absent where it keeps none: no such view, L1 off or observed, l2.dr, no l2.redis.";
    LEASE_FENCES = "weir_lease_fences_total", Counter, "How often all write_through rows of L1 became unusable at once, by reason (disconnected: changes could not be heard; revoked: the lease was revoked or not renewed in time).";
    PUSH_ROUNDS = "weir_push_rounds_total", Counter, "Pushes of write_through rows by how the wait for the other gateways ended (acknowledged, lease_ran_out: one did not answer, table_lost: what was left of a lease was waited for, failed: nothing was written, unconfirmed: written and not acknowledged).";
    PUSH_ACKNOWLEDGEMENT = "weir_push_acknowledgement_seconds", Histogram, "How long pushes of write_through rows waited until no other gateway could serve the old rows.";
    PUSH_ROWS_HELD = "weir_push_rows_held", Gauge, "Rows that are being changed by a push, here or at another gateway, and are not kept in L1 meanwhile.";
    BUS_CONNECTED = "weir_bus_connected", Gauge, "Whether this gateway hears what other gateways push (1), or not (0); absent without l2.redis, where there is none to be heard.";
    BUS_MESSAGES = "weir_bus_messages_total", Counter, "Messages of other gateways by kind (hold, release, heard, dropped, unreadable).";
    BUS_ROWS_UNTOLD = "weir_bus_rows_untold_total", Counter, "Changed rows that the other gateways were not told of, because too many waited (without a connection, say): they serve what they have until its ttl.";
    BUS_GAPS = "weir_bus_gaps_total", Counter, "Times that this gateway hears other gateways again after it did not, by what it dropped of L1 for what it may have missed (all, or nothing: Redis told of the rows that were written, and no operator said anything).";
    INVALIDATIONS = "weir_invalidations_total", Counter, "Times that cached rows were said to be out of date, by origin (tracking: Redis, pubsub: another gateway, kafka, push: to this gateway, admin, dr: another Redis has the rows) and scope (rows, view, prefix, slots: of a Redis whose word was missed, all).";
    INVALIDATED_ROWS = "weir_invalidated_rows_total", Counter, "Rows, and known absences, that invalidations dropped from L1, by origin.";
    INVALIDATION_DELAY = "weir_invalidation_delay_seconds", Histogram, "From when a row was written until its older copy was dropped here, by origin; as far as the clocks of both agree, and where the write's time is known (of tracking: of this gateway's own writes, from when they were sent, by one clock).";
    KAFKA_MESSAGES = "weir_kafka_messages_total", Counter, "Messages of the topic of feature updates, by outcome: applied (rows were dropped, where there were any), nothing (it says that none changed), unknown (a view or a push source that there is not), malformed.";
    KAFKA_UP = "weir_kafka_up", Gauge, "1 while a broker of the topic of feature updates is connected to.";
    KAFKA_LAG = "weir_kafka_lag_messages", Gauge, "Messages of the topic of feature updates that are still to be read, by partition; from the 257th on, of the one furthest behind (other). Absent while that is not known: no broker that leads the partition is connected to.";
    KAFKA_GAPS = "weir_kafka_gaps_total", Counter, "Times that all of L1 was dropped because the place in the topic of feature updates was taken anew: at a start, and where messages were gone before they were read.";
    KAFKA_READER_ENDS = "weir_kafka_reader_ends_total", Counter, "Times that the process which reads the topic of feature updates ended by itself, and another was started.";
    INVALIDATION_CHANNEL_UP = "weir_invalidation_channel_up", Gauge, "1 while all of a channel on which invalidations come is there (tracking: every Redis master is heard), else 0; absent where none is configured.";
    INVALIDATION_CHANNEL_LOSSES = "weir_invalidation_channel_losses_total", Counter, "Times that a connection of such a channel was lost; what was missed meanwhile is dropped once it is there again.";
    FEATURE_REQUESTS = "weir_feature_requests_total", Counter, "Requests of the feature server's API answered, by endpoint and HTTP status.";
    FEATURE_REQUEST_DURATION = "weir_feature_request_duration_seconds", Histogram, "From a feature server request's head until its answer is ready to be sent, by endpoint.";
    FEATURE_RATE_ALIAS = "feast_requests_per_second", Gauge, "Requests of the feature server's API a second, of late (those of the last ten seconds count most; /health apart), under the name its autoscaler asks for.";
    L1_BYTES = "weir_l1_bytes", Gauge, "Weighed size of the in-process row cache.";
    L1_ROWS = "weir_l1_rows", Gauge, "Rows in the in-process row cache.";
    L1_WARM_UPS = "weir_l1_warm_ups_total", Counter, "Warm-ups of the row cache at a start, by outcome: done, timeout, nothing (no keys were saved), refused (what was saved is damaged, too large or another version's), unreachable.";
    L1_WARM_UP_KEYS = "weir_l1_warm_up_keys_total", Counter, "Saved keys at a start, by outcome: read, absent (no such row any more), error, unknown_view (skipped), left (the time was up).";
    L1_WARM_UP_TOOK = "weir_l1_warm_up_seconds", Gauge, "How long the warm-up of the row cache took at the start, from when L2 answered.";
    L1_KEY_SAVES = "weir_l1_key_saves_total", Counter, "Saves of the row cache's hottest keys, by outcome: saved, empty (it holds none; what was saved stays), error.";
    L1_SAVED_KEYS = "weir_l1_saved_keys", Gauge, "Keys that the last save saved.";
    PREDICTION_LOOKUPS = "weir_prediction_lookups_total", Counter, "Looks for a kept prediction by model, layer (l1, l2) and outcome (hit, miss, error: the layer could not say).";
    PREDICTIONS_KEPT = "weir_predictions_kept_total", Counter, "Answers of models with a prediction cache, by outcome: kept, degraded (no full prediction: an error, one too long to hold, or made without what the feature store has), forbidden (its cache-control, vary or set-cookie says so), id (it has an id of its own), malformed (its body is no answer of its protocol, or not all of one).";
    PREDICTIONS_COALESCED = "weir_predictions_coalesced_total", Counter, "Requests answered with what another request for the same was asking the model meanwhile, by model.";
    PREDICTION_STAND_INS = "weir_prediction_stand_ins_total", Counter, "Kept predictions that answered at level 3, by model and whose they were (request: the same one's, entity: another's about the same entity).";
    PREDICTIONS_DROPPED = "weir_predictions_dropped_total", Counter, "Times that all kept predictions of the model were dropped here.";
    PREDICTIONS_BYTES = "weir_predictions_bytes", Gauge, "Weighed size of the predictions kept in this process.";
    PREDICTIONS_ENTRIES = "weir_predictions_entries", Gauge, "Predictions kept in this process.";
    MLFLOW_DELIVERIES = "weir_mlflow_deliveries_total", Counter, "Deliveries of MLflow's webhook by outcome: dropped (predictions were), duplicate, ignored (a test, another event or alias, a model that none here is or of which nothing is kept), unsigned, late (its time is too far from now), malformed.";
    MLFLOW_LOOKS = "weir_mlflow_looks_total", Counter, "Looks at registered models in MLflow by outcome: unchanged, changed (an alias is: predictions are dropped, if no other gateway did), failed.";
    BREAKER_STATE = "weir_breaker_state", Gauge, "1 for the state a target's breaker is in (closed, open, half_open), else 0. One that is well again stays open or half_open until somebody asks it: weir_breaker_open_seconds tells for how long it refuses.";
    BREAKER_TRANSITIONS = "weir_breaker_transitions_total", Counter, "Breaker transitions by target and the state moved to (closed, open, half_open).";
    BREAKER_OPEN = "weir_breaker_open_seconds", Gauge, "Seconds until an open breaker lets its next probe by, 0 in other states, by target.";
    REDIS_REFUSED = "weir_redis_refused_total", Counter, "Requests not sent to a Redis server, by target and reason: open (its breaker is), full (as many are under way as may be).";
    L2_ACTIVE = "weir_l2_active", Gauge, "With l2.dr: 1 for the Redis that has the rows (store: primary, dr), else 0.";
    L2_MOVES = "weir_l2_moves_total", Counter, "With l2.dr: how often rows were read from another Redis from then on, by which (to: primary, dr).";
    L2_REASON = "weir_l2_reason", Gauge, "With l2.dr: 1 for why rows are read where they are: well, primary_gone, dr_gone (as well), primary_read_only (a replica), primary_lacks_writes (that the DR acknowledged), settling (well, and not yet for back_after), dr_not_closed; else 0.";
    L2_DR_READY = "weir_l2_dr_ready", Gauge, "With l2.dr: 1 while the DR answers and is told what the first Redis is, or has the rows; 0 while it could not take over.";
    REDIS_REPLICA_READS = "weir_redis_replica_reads_total", Counter, "Rows that were to be read from a replica, by outcome: answered, absent (it has none, so its master was asked), moved (it named another), failed (no answer in time or none that serves, so its master was asked), behind (none was known to be within max_lag: the master was asked).";
    REDIS_REPLICA_LAG = "weir_redis_replica_lag_seconds", Gauge, "How far a replica may be behind its master, by target; absent while that is not known. More than max_lag, and it is not read.";
    FEATURE_SERVER_REQUESTS = "weir_feature_server_requests_total", Counter, "With l2.feature_server: requests for rows by target and outcome: answered, refused (4xx), failed (5xx, no connection, bytes that are no answer), timeout, full (not sent: as many are under way as may be).";
    ATTEMPTS = "weir_attempts_total", Counter, "Attempts by pool and outcome: success, caller_error (the model refused the request as malformed), overloaded (429, retry-after), failed (a 5xx, a reset, an unreadable answer), connect_failed, timeout, cancelled (the caller went away, or another attempt beside it was answered first).";
    RETRIES = "weir_retries_total", Counter, "Attempts after the first, by pool.";
    RETRIES_DENIED = "weir_retries_denied_total", Counter, "Retries not made, by pool and reason: budget (it is spent), deadline (it leaves no room), not_replayable (the body was passed on as it came), not_idempotent, pushback (the endpoint asked not to be asked again), no_endpoint.";
    HEDGES = "weir_hedges_total", Counter, "Second attempts beside slow first ones, by pool and outcome: won (its answer came first), lost (the first attempt's did), failed (neither's).";
    HEDGES_DENIED = "weir_hedges_denied_total", Counter, "Slow attempts that were not hedged, by pool and reason: share, budget, deadline, no_endpoint.";
    ENDPOINT_HEALTHY = "weir_endpoint_healthy", Gauge, "1 while the endpoint's last health check passed, by pool and endpoint.";
    ENDPOINT_EJECTED = "weir_endpoint_ejected", Gauge, "1 while the endpoint is left out as an outlier, by pool and endpoint.";
    ENDPOINT_EJECTIONS = "weir_endpoint_ejections_total", Counter, "Endpoints left out as outliers, by pool and reason (failures, success_rate, latency).";
    ENDPOINTS = "weir_endpoints", Gauge, "Endpoints that a pool has, configured and found.";
    POOL_PANIC = "weir_pool_panic", Gauge, "1 while so few of the pool's endpoints are healthy that all are asked.";
    POOL_FAILED_OVER = "weir_pool_failed_over", Gauge, "1 while the pool that takes over for this one does.";
    GPU_MEMORY = "weir_gpu_memory_ratio", Gauge, "How full the fullest of a pool's GPUs is (of vLLM, its KV cache), as the pool's exporter tells it, 0 to 1; absent while that is not known.";
    GPU_SCRAPE_STALE = "weir_gpu_scrape_stale", Gauge, "1 while a pool's GPU memory is not known: for three intervals no scrape of its exporter told it.";
    DISCOVERY_REFRESHES = "weir_discovery_refreshes_total", Counter, "Looks for a pool's endpoints in DNS and files, by pool and outcome: unchanged, changed, failed (what was found last is kept).";
    LADDER_LEVEL = "weir_ladder_level", Gauge, "The level that the model stands at, 0 to 4; answers may need a lower one.";
    LADDER_OBSERVED_LEVEL = "weir_ladder_observed_level", Gauge, "The level that triggers and drills say, also where ladder.mode is observe and triggers lower nothing.";
    LADDER_READMITTED = "weir_ladder_readmitted_ratio", Gauge, "The share of a low_priority model's requests that may ask its pool: 0 while its GPUs are full, then growing to 1 while the model stands at level 0 again.";
    LADDER_TRANSITIONS = "weir_ladder_transitions_total", Counter, "Moves of the model's standing level, by model and the level moved to; where ladder.mode is observe, those that it would have made (of weir_ladder_observed_level).";
    MEMBERS_LEFT_OUT = "weir_ensemble_members_left_out_total", Counter, "Answers of an ensemble that a member is not in, by ensemble, member and reason: timeout, failed (an error of its own), unreadable (its answer is), differs (its outputs are not the others'), unavailable, shed, gpu_memory, drill.";
    LADDER_SECONDS = "weir_ladder_level_seconds_total", Counter, "Time that the model stood at each level, by model and level; where ladder.mode is observe, that it would have stood there (weir_ladder_observed_level).";
    TIER_SLOTS = "weir_tier_slots", Gauge, "Slots a tier may use at most.";
    TIER_SLOTS_IN_USE = "weir_tier_slots_in_use", Gauge, "Slots a tier uses now.";
    SHED = "weir_requests_shed_total", Counter, "Requests refused, by tier and reason: queue_full, queue_timeout, deadline (less of it was left than half of the model's answers take), limit (the pool takes no more), no_slot (none is free for one that waited once already).";
    DEMAND = "weir_demand", Gauge, "Work offered to the model, in requests at once: those past the door, waiting ones among them, and as many as those of the last ten seconds that were refused, or that something else than the model answered (level 2 or worse), would have been.";
    POOL_LIMIT = "weir_pool_limit", Gauge, "Requests that a pool with an adaptive limit may have at once.";
    QUEUE_DEPTH = "weir_inference_queue_depth", Gauge, "Requests waiting for a slot, by model.";
    QUEUE_DEPTH_ALIAS = "kserve_inference_queue_depth", Gauge, "weir_inference_queue_depth under the name KServe autoscalers ask for.";
    SPOOL_DEPTH = "weir_spool_depth", Gauge, "Requests kept for later, by state: waiting, running, done (their results are kept), parked. In Redis all gateways of a project share them and each shows all.";
    SPOOL_BYTES = "weir_spool_bytes", Gauge, "Bytes of the requests kept for later and of their results; shared as weir_spool_depth is.";
    SPOOL_OLDEST = "weir_spool_oldest_waiting_seconds", Gauge, "How long ago the oldest kept request that waits was received; 0 where none waits.";
    SPOOL_KEPT = "weir_spool_requests_total", Counter, "Requests that were to be kept for later, by outcome: queued, logged (answered at level 3), known (kept already under its idempotency key), other_request (its key is another's), full (spool.max_entries), error (the store failed), dropped (too many were being logged, or the process ended).";
    SPOOL_REPLAYS = "weir_spool_replays_total", Counter, "Replays of kept requests by outcome: done, already (there was a result), retried, parked, given_back (it did not reach the model), lost (its entry is gone or another gateway's), unstored (the store failed).";
    ACCESS_LOG_DROPPED = "weir_access_log_dropped_total", Counter, "Access log lines dropped because the writer was behind.";
    CONNECTIONS = "weir_connections", Gauge, "Open downstream connections, by listener (http, grpc).";
    HELD_BODY_BYTES = "weir_held_body_bytes", Gauge, "Bytes of requests' bodies held to be decoded or sent again; listen.hold_bodies is the most.";
    BODIES_NOT_HELD = "weir_bodies_not_held_total", Counter, "Requests' bodies that found no room in listen.hold_bodies, by outcome: streamed (passed on as it came, so that it cannot be sent again), refused (it had to be decoded).";
    STALLED_ANSWERS = "weir_stalled_answers_total", Counter, "Streamed answers broken off because their caller took nothing of them for listen.send_timeout.";
    REGISTRY_REFRESHES = "weir_registry_refreshes_total", Counter, "Looks at Feast's registry after the first, by outcome: unchanged, changed, refused (what it has become is no registry, or does not fit the models; the one before serves on), unreachable.";
    OBJECT_READS = "weir_object_reads_total", Counter, "Reads of lookup files on the object store, by view and kind (manifest, directory, bucket).";
    OBJECT_ERRORS = "weir_object_errors_total", Counter, "Lookups in lookup files that failed, by view and reason (unavailable, timeout, open: its circuit breaker is, busy, damaged, mismatch).";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/metrics.md` has a line a metric, with its kind and what `# HELP` says, and no other.
    #[test]
    fn each_is_documented_as_it_is_described() {
        let page = include_str!("../../docs/metrics.md");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for (row, Metric { name, kind, help }) in rows.iter().zip(ALL) {
            let begin = format!("| `{name}` | {} | ", format!("{kind:?}").to_lowercase());
            let end = format!(" | {help} |");
            assert!(row.starts_with(&begin) && row.ends_with(&end), "{begin}…{end} in the place of {row}");
        }
        assert_eq!(rows.len(), ALL.len());
    }
}
