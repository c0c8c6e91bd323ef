//! ONNX files, run by ONNX Runtime, which is loaded when the first of them is opened.

use std::path::Path;
use std::sync::{Mutex, OnceLock};

use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor};

use crate::detect::{Array, Network, Values};
use crate::error::{Error, Result};

/// Where ONNX Runtime's library is, if not where the system looks for libraries.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// A network in an ONNX file.
pub struct Onnx {
    // Running a session twice at once is not allowed.
    session: Mutex<Session>,
    inputs: Vec<String>,
    file: String,
}

impl Onnx {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When ONNX Runtime's library is not there, or the file is none it can run.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let fault = |error: &dyn std::fmt::Display| Error::Network {
            reason: format!("{file}: {}; give an ONNX file as it was published", one_line(error)),
        };
        let environment = environment()?;
        let mut builder = Session::builder(environment).map_err(|error| fault(&error))?;
        let session = builder.commit_from_file(path).map_err(|error| fault(&error))?;
        let inputs = session.inputs().iter().map(|input| input.name().to_owned()).collect();
        Ok(Self { session: Mutex::new(session), inputs, file })
    }

    fn fault(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Network { reason: format!("{}: {}", self.file, one_line(error)) }
    }
}

fn one_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// ONNX Runtime, loaded once.
fn environment() -> Result<&'static Environment> {
    static LOADED: OnceLock<Result<Environment, String>> = OnceLock::new();
    let load = || {
        let library = std::env::var(LIBRARY).unwrap_or_else(|_| {
            format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
        });
        let fault = |error: &dyn std::fmt::Display| {
            format!(
                "cannot load ONNX Runtime from {library}: {}; install it, or name its library in {LIBRARY}",
                one_line(error)
            )
        };
        let builder = ort::init_from(&library).map_err(|error| fault(&error))?;
        builder.build().map_err(|error| fault(&error))
    };
    LOADED.get_or_init(load).as_ref().map_err(|reason| Error::Network { reason: reason.clone() })
}

impl Network for Onnx {
    fn run(&self, inputs: Vec<Array>) -> Result<Vec<Array>> {
        let mut given: Vec<(String, SessionInputValue)> = Vec::with_capacity(inputs.len());
        for Array { name, shape, values } in inputs {
            let name = if name.is_empty() { self.inputs.first().cloned().unwrap_or_default() } else { name };
            let value = match values {
                Values::Floats(values) => Tensor::from_array((shape, values)).map(Tensor::into_dyn),
                Values::Integers(values) => Tensor::from_array((shape, values)).map(Tensor::into_dyn),
            };
            given.push((name, value.map_err(|error| self.fault(&error))?.into()));
        }
        let mut session = self.session.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let outputs = session.run(given).map_err(|error| self.fault(&error))?;
        outputs.iter().map(|(name, value)| self.array(name, &value)).collect()
    }
}

impl Onnx {
    fn array(&self, name: &str, value: &DynValue) -> Result<Array> {
        let (shape, values) = match value.try_extract_tensor::<f32>() {
            Ok((shape, values)) => (shape, Values::Floats(values.to_vec())),
            Err(_) => {
                let (shape, values) =
                    value.try_extract_tensor::<i64>().map_err(|error| self.fault(&error))?;
                (shape, Values::Integers(values.to_vec()))
            }
        };
        let shape = shape.iter().map(|extent| usize::try_from(*extent).unwrap_or_default()).collect();
        Ok(Array { name: name.to_owned(), shape, values })
    }
}
