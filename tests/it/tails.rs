//! A model that always answers inside its deadline is always answered, however unlike its answers are, and neither it nor a caller that
//! dawdles has an endpoint taken out. Counts are asserted, not times: what is slow here is so beside a part of the deadline that long
//! waits before retries leave, and far from the deadline.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::support::{
    Weir,
    hand::{Counting, Hand},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";
const PATH: &str = "/v2/models/m/infer";
const REQUESTS: usize = 60;

/// An attempt's part is 50 ms: half of what the wait before a retry leaves of 10 s.
fn weir(endpoints: &[String]) -> Weir {
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{}], health: {{interval: 1h}}, retry: {{max_retries: 1, initial_delay: 9900ms, max_delay: 9900ms, jitter: 0.0, \
         budget: 1.0}}}}\nmodels:\n  m: {{pool: p, timeout: 10s}}\n",
        endpoints.join(", ")
    ))
}

/// Three answers of ten take three times an attempt's part.
fn bimodal() -> Counting {
    Counting::slow_if(OK, Duration::from_millis(150), |number| number % 10 < 3)
}

#[track_caller]
fn all_are_answered(weir: &Weir) {
    let mut connection = weir.connect();
    for _ in 0..REQUESTS {
        connection.post(PATH, "{}").expect(200);
    }
}

#[test]
fn a_tail_takes_no_endpoint_out_where_it_is_the_only_one() {
    let model = bimodal();
    let weir = weir(&[model.endpoint()]);
    all_are_answered(&weir);
    assert_eq!(model.count(), REQUESTS);
    assert_eq!(weir.metrics().count("weir_breaker_transitions_total", &[]), 0.0);
}

#[test]
fn a_tail_takes_no_endpoint_out_of_three() {
    let models = [bimodal(), bimodal(), bimodal()];
    let weir = weir(&models.each_ref().map(Counting::endpoint));
    all_are_answered(&weir);
    assert_eq!(weir.metrics().count("weir_breaker_transitions_total", &[]), 0.0);
    assert_eq!(weir.metrics().count("weir_attempts_total", &[("outcome", "timeout")]), 0.0);
}

#[test]
fn one_of_three_that_hangs_costs_no_answer() {
    let (models, silent) = ([Counting::listen(OK), Counting::listen(OK)], Hand::listen());
    let weir = weir(&[models[0].endpoint(), models[1].endpoint(), silent.endpoint()]);
    all_are_answered(&weir);
    assert!(silent.pending() < REQUESTS / 6, "it is avoided once it was silent");
}

#[test]
fn a_caller_that_stops_sending_is_told_so_and_nobody_else_is_to_blame() {
    let model = Counting::listen(OK);
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [\"{}\"], breaker: {{failure_threshold: 1}}}}\nmodels:\n  m: {{pool: p, timeout: 2s}}\n",
        model.endpoint()
    ));
    let mut caller = TcpStream::connect(weir.http()).expect("it listens");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: weir\r\ncontent-type: application/json\r\ncontent-length: 200000\r\n\r\n{}",
        " ".repeat(90_000)
    );
    caller.write_all(head.as_bytes()).expect("it is read");
    caller.set_read_timeout(Some(Duration::from_secs(20))).expect("it is a TCP socket");
    let mut status = [0; 12];
    caller.read_exact(&mut status).expect("an answer comes");
    assert_eq!(String::from_utf8_lossy(&status), "HTTP/1.1 408");
    assert_eq!(weir.metrics().count("weir_breaker_transitions_total", &[]), 0.0);
    weir.connect().post(PATH, "{}").expect(200);
}
