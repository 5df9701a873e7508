//! What a faulty model does, fault by fault: the same story over HTTP/1.1 and, with its own means, over HTTP/2.

use std::{net::TcpListener, sync::Arc, time::Duration};

use crate::support::{
    faulty_model::{
        Arrived, FaultyModel, Script, Speaks,
        Step::{self, Close, Hang, Pause, Reset, Send, Trickle},
    },
    grpc::framed,
    http2::{
        INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, data, go_away, greeting, head, last_data, last_head, reset_stream,
    },
};

/// Longer than what is held until whole.
const LONG: usize = 200_000;
/// Between the bytes of what trickles: the shortest body takes longer than any attempt at it may.
const APART: Duration = Duration::from_millis(100);
/// What is late, but in time.
const LATE: Duration = Duration::from_millis(150);
const GARBAGE: &[u8] = b"\x15\x03\x03\x00\x02\x02\x28 this is no protocol that anybody here speaks\r\n\r\n";

/// The model that has the fault; `None`: there is no such fault in this protocol.
pub(crate) fn model(fault: &str, protocol: &str) -> Option<FaultyModel> {
    let speaks = speaks(protocol);
    if let Some(greeting) = at_accept(fault, speaks) {
        return Some(FaultyModel::greeting(speaks, greeting, steps(|_| vec![Hang])));
    }
    Some(FaultyModel::listen(speaks, script(fault, protocol)?))
}

/// Whether there is such a fault in this protocol.
pub(crate) fn knows(fault: &str, protocol: &str) -> bool {
    at_accept(fault, speaks(protocol)).is_some() || script(fault, protocol).is_some()
}

pub(crate) fn speaks(protocol: &str) -> Speaks {
    if protocol == "grpc" { Speaks::Http2 } else { Speaks::Http1 }
}

pub(crate) fn script(fault: &str, protocol: &str) -> Option<Script> {
    match speaks(protocol) {
        Speaks::Http1 => http1(fault, protocol),
        Speaks::Http2 => grpc_connection(fault).or_else(|| grpc_stream(fault)).or_else(|| grpc_told(fault)),
    }
}

/// A model that is well.
pub(crate) fn good(protocol: &str) -> FaultyModel {
    model("none", protocol).expect("every protocol can be spoken well")
}

/// The same, on a listener that was not served before.
pub(crate) fn good_on(listener: TcpListener, protocol: &str) -> FaultyModel {
    let (speaks, script) = (speaks(protocol), script("none", protocol).expect("every protocol can be spoken well"));
    let greeting = if speaks == Speaks::Http2 { vec![Send(greeting())] } else { Vec::new() };
    FaultyModel::on(listener, speaks, greeting, script)
}

fn steps(script: impl Fn(Arrived) -> Vec<Step> + std::marker::Send + Sync + 'static) -> Script {
    Arc::new(script)
}

/// A byte at a time.
fn trickle(bytes: &[u8]) -> Step {
    Trickle(bytes.chunks(1).map(<[u8]>::to_vec).collect(), APART)
}

fn always(script: Vec<Step>) -> Option<Script> {
    Some(steps(move |_| script.clone()))
}

/// Faults of connections, before anything is asked.
fn at_accept(fault: &str, speaks: Speaks) -> Option<Vec<Step>> {
    match (fault, speaks) {
        ("reset at accept", _) => Some(vec![Reset]),
        ("closed at accept", _) => Some(vec![Close]),
        // What HTTP/1.1 says before it is asked is garbage too, but is garbage at the answer's place below.
        ("garbage", Speaks::Http2) => Some(vec![Send(GARBAGE.into())]),
        _ => None,
    }
}

/// A body as the protocol has it, and the fields that tell it.
fn body(protocol: &str) -> (&'static str, &'static [u8]) {
    match protocol {
        "v1" => ("content-type: application/json\r\n", b"{\"predictions\": [0.25, 0.5, 0.75, 1.0]}"),
        "v2 json" => (
            "content-type: application/json\r\n",
            b"{\"model_name\":\"model\",\"outputs\": [{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[1]}]}",
        ),
        _ => (
            "content-type: application/octet-stream\r\ninference-header-content-length: 113\r\n",
            b"{\"model_name\":\"model\",\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[1],\"parameters\":{\"binary_data_size\":4}}]}\
              \0\0\x80\x3f",
        ),
    }
}

fn http1(fault: &str, protocol: &str) -> Option<Script> {
    let (fields, body) = body(protocol);
    let head = |status: &str, more: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\n{fields}{more}content-length: {length}\r\n\r\n").into_bytes()
    };
    let whole = |status: &str, more: &str| [head(status, more, body.len()), body.to_vec()].concat();
    let (ok, half) = (head("200 OK", "", body.len()), body[..body.len() / 2].to_vec());
    let chunked = format!("HTTP/1.1 200 OK\r\n{fields}transfer-encoding: chunked\r\n\r\n");
    let chunk = [format!("{chunked}{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat();
    let long = [head("200 OK", "", LONG), vec![b' '; LONG / 2]].concat();
    let other = |body: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    always(match fault {
        "none" => vec![Send(whole("200 OK", ""))],
        "reset before the head" => vec![Reset],
        "reset in the head" => vec![Send(ok[..ok.len() / 2].to_vec()), Reset],
        "reset after the head" => vec![Send(ok), Reset],
        "reset in the body" => vec![Send(ok), Send(half), Reset],
        "reset in a long body" => vec![Send(long), Pause(LATE), Reset],
        "closed before the head" => vec![Close],
        "truncated" => vec![Send(ok), Send(half), Close],
        "without its end" => vec![Send(chunk), Close],
        "truncated long body" => vec![Send(long), Close],
        "hang" => vec![Hang],
        "hang after the head" => vec![Send(ok), Hang],
        "slow" => vec![Pause(LATE), Send(whole("200 OK", ""))],
        "trickled head" => vec![trickle(&ok)],
        "trickled body" => vec![Send(ok), trickle(body), Hang],
        "trickled long body" => vec![Send(head("200 OK", "", LONG)), trickle(&[b' '; LONG])],
        "garbage" => vec![Send(GARBAGE.into())],
        "garbage in the body" => vec![Send(chunked.into()), Send(b"zz\r\n".to_vec()), Send(body.into())],
        "longer than declared" => vec![Send(head("200 OK", "", body.len() - 1)), Send(body.into())],
        "nonsense" => vec![Send(other("xyz").into())],
        "200 without outputs" => vec![Send(other("{\"error\": \"out of memory\"}").into())],
        "500" => vec![Send(whole("500 Internal Server Error", ""))],
        "503" => vec![Send(whole("503 Service Unavailable", ""))],
        "503, not before 30 s" => vec![Send(whole("503 Service Unavailable", "retry-after: 30\r\n"))],
        "504" => vec![Send(whole("504 Gateway Timeout", ""))],
        "429" => vec![Send(whole("429 Too Many Requests", ""))],
        "429, not before 30 s" => vec![Send(whole("429 Too Many Requests", "retry-after: 30\r\n"))],
        "400" => vec![Send(whole("400 Bad Request", ""))],
        "404" => vec![Send(whole("404 Not Found", ""))],
        "501" => vec![Send(whole("501 Not Implemented", ""))],
        "flapping" => {
            let (well, bad) = (whole("200 OK", ""), whole("503 Service Unavailable", ""));
            return Some(steps(move |at| vec![Send(if at.nth % 2 == 1 { well.clone() } else { bad.clone() })]));
        }
        _ => return None,
    })
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

fn grpc_head(stream: u32) -> Step {
    Send(head(stream, &[(":status", "200"), GRPC]))
}

/// An answer that is only a status.
fn told(stream: u32, code: &str, more: &[(&str, &str)]) -> Vec<Step> {
    let fields = [&[(":status", "200"), GRPC, ("grpc-status", code), ("grpc-message", "so it is")], more].concat();
    vec![Send(last_head(stream, &fields))]
}

fn trickled_data(stream: u32) -> Step {
    Trickle(vec![data(stream, &[0]); LONG], APART)
}

fn message() -> Vec<u8> {
    framed(b"\x0a\x05model\x12\x011")
}

fn ends_well(stream: u32) -> Step {
    Send(last_head(stream, &[("grpc-status", "0")]))
}

fn well(stream: u32) -> Vec<Step> {
    says(stream, &message())
}

fn says(stream: u32, message: &[u8]) -> Vec<Step> {
    vec![grpc_head(stream), Send(data(stream, message)), ends_well(stream)]
}

/// Faults that take the connection along.
fn grpc_connection(fault: &str) -> Option<Script> {
    let half = |stream| data(stream, &message()[..message().len() / 2]);
    Some(match fault {
        "reset before the head" => steps(|_| vec![Reset]),
        "reset in the head" => steps(|at| vec![Send(head(at.stream, &[(":status", "200")])[..12].to_vec()), Reset]),
        "reset after the head" => steps(|at| vec![grpc_head(at.stream), Reset]),
        "reset in the body" => steps(move |at| vec![grpc_head(at.stream), Send(half(at.stream)), Reset]),
        "reset in a long body" => {
            steps(|at| vec![grpc_head(at.stream), Send(data(at.stream, &[0; LONG / 2])), Pause(LATE), Reset])
        }
        "closed before the head" => steps(|_| vec![Close]),
        "truncated" => steps(move |at| vec![grpc_head(at.stream), Send(half(at.stream)), Close]),
        "truncated long body" => steps(|at| vec![grpc_head(at.stream), Send(data(at.stream, &[0; LONG / 2])), Close]),
        "garbage in the body" => steps(|at| vec![grpc_head(at.stream), Send(GARBAGE.into())]),
        "go away" => steps(|_| vec![Send(go_away(0, NO_ERROR)), Close]),
        "go away, then well" => steps(|at| match at.nth {
            1 => vec![Send(go_away(0, NO_ERROR)), Close],
            _ => well(at.stream),
        }),
        "settings in place of an answer" => steps(|_| vec![Send(greeting()), Close]),
        _ => return None,
    })
}

/// Faults of one stream.
fn grpc_stream(fault: &str) -> Option<Script> {
    let reset = |code| steps(move |at: Arrived| vec![Send(reset_stream(at.stream, code))]);
    Some(match fault {
        "none" => steps(|at| well(at.stream)),
        "flapping" => steps(|at| if at.nth % 2 == 1 { well(at.stream) } else { told(at.stream, "14", &[]) }),
        "slow" => steps(|at| [vec![Pause(LATE)], well(at.stream)].concat()),
        "hang" => steps(|_| vec![Hang]),
        "hang after the head" => steps(|at| vec![grpc_head(at.stream), Hang]),
        "trickled head" => {
            steps(|at| vec![trickle(&head(at.stream, &[(":status", "200"), GRPC, ("x", &"x".repeat(90))]))])
        }
        "trickled body" => steps(|at| vec![grpc_head(at.stream), trickled_data(at.stream)]),
        "trickled long body" => {
            steps(|at| vec![grpc_head(at.stream), Send(data(at.stream, &[0; LONG / 2])), trickled_data(at.stream)])
        }
        "without its end" => steps(|at| vec![grpc_head(at.stream), Send(last_data(at.stream, &message()))]),
        "message shorter than its frame says" => steps(|at| {
            let short = &message()[..message().len() - 1];
            vec![grpc_head(at.stream), Send(data(at.stream, short)), ends_well(at.stream)]
        }),
        "longer than declared" => steps(|at| {
            let declared = (message().len() - 1).to_string();
            let fields = [(":status", "200"), GRPC, ("content-length", declared.as_str())];
            vec![Send(head(at.stream, &fields)), Send(data(at.stream, &message())), ends_well(at.stream)]
        }),
        "nonsense" => steps(|at| says(at.stream, &framed(b"<html>"))),
        // An output that ends too soon.
        "200 without outputs" => steps(|at| says(at.stream, &framed(b"\x2a\x02\x0a\x09"))),
        "stream reset" => reset(INTERNAL_ERROR),
        "stream refused" => reset(REFUSED_STREAM),
        "stream reset in the body" => steps(|at| {
            vec![grpc_head(at.stream), Send(data(at.stream, &message())), Send(reset_stream(at.stream, INTERNAL_ERROR))]
        }),
        _ => return None,
    })
}

/// What a model or something before it says of itself.
fn grpc_told(fault: &str) -> Option<Script> {
    let code = |code: &'static str| steps(move |at: Arrived| told(at.stream, code, &[]));
    let later = |code: &'static str| {
        steps(move |at: Arrived| {
            let fields = [("grpc-status", code), ("grpc-retry-pushback-ms", "30000")];
            vec![grpc_head(at.stream), Send(last_head(at.stream, &fields))]
        })
    };
    let after = |code: &'static str| steps(move |at: Arrived| told(at.stream, code, &[("retry-after", "30")]));
    let http = |status: &'static str| {
        steps(move |at: Arrived| {
            let fields = [(":status", status), ("content-type", "text/html")];
            vec![Send(head(at.stream, &fields)), Send(last_data(at.stream, b"<html>"))]
        })
    };
    Some(match fault {
        "500" => code("13"),
        "503" => code("14"),
        "503, not before 30 s" => later("14"),
        "504" => code("4"),
        "429" => code("8"),
        "429, not before 30 s" => later("8"),
        "429, here not before 30 s" => after("8"),
        "503, here not before 30 s" => after("14"),
        "400" => code("3"),
        "404" => code("5"),
        "501" => code("12"),
        "HTTP 502 in place of gRPC" => http("502"),
        "HTTP 429 in place of gRPC" => http("429"),
        "HTTP 404 in place of gRPC" => http("404"),
        _ => return None,
    })
}
