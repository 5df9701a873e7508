//! Triton Inference Server on the CPU, with Python models and a repository generated from what a test declares.

use std::{fmt::Write, fs, net::SocketAddr, os::unix::fs::symlink, path::Path, process::Command};

use super::{
    http1, parts,
    process::{Folder, Spawned, free_port, loopback},
};

/// A declared tensor: name, OIP datatype, dimensions (`-1`: any).
pub(crate) type Tensor<'a> = (&'a str, &'a str, &'a [i64]);

/// Returns every input as an output of its name with `echo_` in front.
pub(crate) const ECHO: &str = r#"
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            echoed = [pb_utils.Tensor("echo_" + t.name(), t.as_numpy()) for t in request.inputs()]
            answers.append(pb_utils.InferenceResponse(output_tensors=echoed))
        return answers
"#;

/// Scores rows of four numbers: `0.001 a + 0.01 b + 0.1 c + d`, in double precision, answered as FP32.
pub(crate) const FRAUD: &str = r#"
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "input-0").as_numpy().astype(np.float64)
            score = (rows @ np.array([0.001, 0.01, 0.1, 1.0])).astype(np.float32)
            answers.append(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("score", score)]))
        return answers
"#;

/// Sleeps as many milliseconds as it is told, then answers them.
pub(crate) const SLOW: &str = r#"
import time
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            millis = pb_utils.get_input_tensor_by_name(request, "millis").as_numpy()
            time.sleep(float(millis.flatten()[0]) / 1000.0)
            answers.append(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("slept", millis)]))
        return answers
"#;

/// Says why it fails.
pub(crate) const FAILS: &str = r#"
class TritonPythonModel:
    def execute(self, requests):
        error = pb_utils.TritonError("this model always fails")
        return [pb_utils.InferenceResponse(output_tensors=[], error=error) for _ in requests]
"#;

/// A running server.
pub(crate) struct Triton {
    http: SocketAddr,
    grpc: SocketAddr,
    _process: Spawned,
    _folder: Folder,
}

/// What a server is to serve.
pub(crate) struct Builder {
    folder: Folder,
}

impl Triton {
    /// A server without models yet.
    pub(crate) fn builder() -> Builder {
        Builder { folder: Folder::new("triton") }
    }

    /// Its HTTP port.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its gRPC port.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// An endpoint for Weir's config, both ports.
    pub(crate) fn endpoint(&self) -> String {
        format!("{{http: \"http://{}\", grpc: \"http://{}\"}}", self.http, self.grpc)
    }
}

impl Builder {
    /// Adds a model: its class `TritonPythonModel` sees numpy as `np` and Triton's `pb_utils`.
    #[must_use]
    pub(crate) fn model(self, name: &str, inputs: &[Tensor<'_>], outputs: &[Tensor<'_>], source: &str) -> Self {
        let mut config = format!("name: \"{name}\"\nbackend: \"python\"\nmax_batch_size: 0\n");
        config += "instance_group [{ kind: KIND_CPU count: 1 }]\n";
        declare(&mut config, "input", inputs);
        declare(&mut config, "output", outputs);
        // The stub ignores PYTHONPATH.
        let head = "import os, sys\nsys.path[:0] = os.environ[\"PYTHONPATH\"].split(\":\")\n\
                    import numpy as np\nimport triton_python_backend_utils as pb_utils\n";
        self.folder.write(&format!("models/{name}/config.pbtxt"), config);
        self.folder.write(&format!("models/{name}/1/model.py"), format!("{head}{source}"));
        self
    }

    /// Adds a model that echoes these inputs.
    #[must_use]
    pub(crate) fn echo(self, name: &str, inputs: &[Tensor<'_>]) -> Self {
        let names: Vec<_> = inputs.iter().map(|(name, ..)| format!("echo_{name}")).collect();
        let outputs: Vec<Tensor<'_>> =
            inputs.iter().zip(&names).map(|((_, datatype, dims), name)| (name.as_str(), *datatype, *dims)).collect();
        self.model(name, inputs, &outputs, ECHO)
    }

    /// Starts the server; about two seconds.
    pub(crate) fn start(self) -> Triton {
        let site = parts::site_packages("triton");
        let server = site.join("pytriton/tritonserver");
        let backends = self.folder.path().join("backends");
        lay_out_backend(&server, &backends.join("python"));
        let [http, grpc, metrics] = std::array::from_fn(|_| free_port());
        let mut command = Command::new(server.join("bin/tritonserver"));
        command
            .arg(format!("--model-repository={}", self.folder.path().join("models").display()))
            .arg(format!("--backend-directory={}", backends.display()))
            .args(["--allow-gpu-metrics=false", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1"])
            .args(["--metrics-address=127.0.0.1", "--http-thread-count=4"])
            .args([format!("--http-port={http}"), format!("--grpc-port={grpc}"), format!("--metrics-port={metrics}")])
            .env("LD_LIBRARY_PATH", site.join("nvidia_pytriton.libs"))
            .env("PYTHONPATH", &site);
        let mut process = Spawned::start("triton", &mut command, self.folder.path());
        process.ready("every model", |_| (http1::try_get(loopback(http), "/v2/health/ready")? == 200).then_some(()));
        Triton { http: loopback(http), grpc: loopback(grpc), _process: process, _folder: self.folder }
    }
}

/// The Python backend, with the stub for our interpreter's version beside it.
fn lay_out_backend(server: &Path, backend: &Path) {
    fs::create_dir_all(backend).expect("the folder is writable");
    let stub = format!("python_backend_stubs/{}/triton_python_backend_stub", parts::python_version());
    for entry in fs::read_dir(server.join("backends/python")).expect("Triton's Python backend is there") {
        let entry = entry.expect("it can be listed");
        if entry.file_name() != "triton_python_backend_stub" {
            symlink(entry.path(), backend.join(entry.file_name())).expect("the folder is writable");
        }
    }
    fs::copy(server.join(stub), backend.join("triton_python_backend_stub")).expect("Triton has a stub for our Python");
}

fn declare(config: &mut String, kind: &str, tensors: &[Tensor<'_>]) {
    for (name, datatype, dims) in tensors {
        let datatype = if *datatype == "BYTES" { "STRING" } else { datatype };
        writeln!(config, "{kind} [{{ name: \"{name}\" data_type: TYPE_{datatype} dims: {dims:?} }}]")
            .expect("a String");
    }
}
