//! A policy file on [tract](https://docs.rs/tract-onnx), one observation at a time. Copy this file and `seal.rs`
//! into your crate.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! # let read_sensors = || [0.0_f32; 4];
//! let mut policy = policy::Policy::load("best_model.onnx")?;
//! for _ in 0..500 {
//!     let observation = read_sensors();
//!     let action: &[f32] = policy.step(&[("obs", (&observation[..]).into())])?;
//! }
//! policy.reset(); // the next observation begins an episode
//! # Ok(()) }
//! ```

mod seal;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use tract_onnx::prelude::*;

/// The values of one input, flat, in row-major order.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    Float32(&'a [f32]),
    Uint8(&'a [u8]),
    Bool(&'a [bool]),
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::Float32(values)
    }
}

impl<'a> From<&'a [u8]> for Values<'a> {
    fn from(values: &'a [u8]) -> Self {
        Self::Uint8(values)
    }
}

impl<'a> From<&'a [bool]> for Values<'a> {
    fn from(values: &'a [bool]) -> Self {
        Self::Bool(values)
    }
}

/// One input or output of the graph; the batch is 1.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    pub datum_type: DatumType,
    pub shape: Vec<usize>,
    role: String,
}

impl Spec {
    /// How many values it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(spec: &Json) -> Result<Self> {
        let text = |key: &str| {
            Ok::<_, anyhow::Error>(spec[key].as_str().context("a text is missing in the record")?.to_owned())
        };
        let datum_type = match text("dtype")?.as_str() {
            "float32" => f32::datum_type(),
            "uint8" => u8::datum_type(),
            "bool" => bool::datum_type(),
            other => bail!("this program does not know the element type {other}"),
        };
        let shape = spec["shape"].as_array().context("the record gives an input or output no shape")?;
        let shape = shape.iter().map(|size| match size.as_u64() {
            Some(size) => Ok(usize::try_from(size)?),
            None if size == "batch" => Ok(1),
            None => bail!("{size} is no size"),
        });
        Ok(Self { name: text("name")?, datum_type, shape: shape.collect::<Result<_>>()?, role: text("role")? })
    }

    fn zeros(&self) -> Result<Tensor> {
        Tensor::zero_dt(self.datum_type, &self.shape)
    }
}

/// A policy, ready to run.
pub struct Policy {
    /// What the graph takes, in its order.
    pub inputs: Vec<Spec>,
    /// What the graph gives, in its order: the action first.
    pub outputs: Vec<Spec>,
    /// The whole record of the file: spaces, normalization, training, how it was proven.
    pub record: Json,
    model: Arc<TypedRunnableModel>,
    feed: Vec<Tensor>,
    results: Vec<Vec<f32>>,
}

impl Policy {
    /// Load a policy.
    ///
    /// # Errors
    /// The file cannot be read, is no policy file or damaged, is of a version that this program does not know, or needs
    /// an operator that tract does not have.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        ensure!(seal::is_whole(&file), "{} is no policy file, or was changed after it was written", path.display());
        let onnx = tract_onnx::onnx();
        let proto = onnx.proto_model_for_read(&mut file.as_slice())?;
        let record = proto.metadata_props.iter().find(|entry| entry.key == "sb3_clanker");
        let record: Json =
            serde_json::from_str(&record.context("this file has no record: sb3_clanker did not write it")?.value)?;
        ensure!(
            record["schema_version"] == 3 || record["schema_version"] == 2 || record["schema_version"] == 1,
            "the record has version {}; this program reads 1 to 3",
            record["schema_version"]
        );
        let (inputs, outputs) = (specs(&record["inputs"])?, specs(&record["outputs"])?);

        let mut model = onnx.parse(&proto, path.parent().and_then(Path::to_str))?.model;
        let names: Vec<_> = model.input_outlets()?.iter().map(|outlet| &model.node(outlet.node).name).collect();
        ensure!(
            inputs.iter().filter(|input| is_state(input)).all(|input| input.datum_type == f32::datum_type()),
            "state is not float32"
        );
        ensure!(names.iter().copied().eq(inputs.iter().map(|input| &input.name)), "graph and record name other inputs");
        for (index, input) in inputs.iter().enumerate() {
            model.set_input_fact(index, InferenceFact::dt_shape(input.datum_type, &input.shape))?;
        }
        let model = model.into_optimized()?.into_runnable()?;

        let feed = inputs.iter().map(Spec::zeros).collect::<Result<_>>()?;
        let results = outputs.iter().map(|output| vec![0.0; output.len()]).collect();
        let mut policy = Self { inputs, outputs, record, model, feed, results };
        policy.reset();
        Ok(policy)
    }

    /// Begin an episode: a recurrent policy forgets.
    pub fn reset(&mut self) {
        for (input, tensor) in self.inputs.iter().zip(&mut self.feed) {
            match input.role.as_str() {
                "hidden_state" | "cell_state" => fill(tensor, 0.0),
                "episode_start" => fill(tensor, 1.0),
                _ => {}
            }
        }
    }

    /// The action for one observation; the state of a recurrent policy is kept for the next.
    ///
    /// `values` holds every input but the state, by name: raw observations, and `action_masks` where the policy has
    /// them. The action is flat: `action_dim` numbers, within the bounds of the action space, whole where it is discrete.
    ///
    /// # Errors
    /// An input is missing, unknown, or of another type or size.
    pub fn step(&mut self, values: &[(&str, Values)]) -> Result<&[f32]> {
        for input in self.inputs.iter().filter(|input| !is_state(input)) {
            ensure!(values.iter().any(|(name, _)| *name == input.name), "{} is missing", input.name);
        }
        self.run(values)?;
        for (input, tensor) in self.inputs.iter().zip(&mut self.feed) {
            match input.role.as_str() {
                "episode_start" => fill(tensor, 0.0),
                "hidden_state" | "cell_state" => {
                    let next = self.outputs.iter().position(|output| output.role == input.role);
                    let next = next.context("the graph gives no state back")?;
                    *tensor = Tensor::from_shape(&input.shape, &self.results[next])?;
                }
                _ => {}
            }
        }
        Ok(&self.results[0])
    }

    /// Compute the outputs, in the order of [`Policy::outputs`]. What `values` does not hold stays as it is.
    ///
    /// # Errors
    /// An input is unknown, or of another type or size.
    pub fn run(&mut self, values: &[(&str, Values)]) -> Result<&[Vec<f32>]> {
        for (name, values) in values {
            let index = self
                .inputs
                .iter()
                .position(|input| input.name == *name)
                .with_context(|| format!("there is no input {name}"))?;
            let input = &self.inputs[index];
            let tensor = match *values {
                Values::Float32(values) => Tensor::from_shape(&input.shape, values),
                Values::Uint8(values) => Tensor::from_shape(&input.shape, values),
                Values::Bool(values) => Tensor::from_shape(&input.shape, values),
            }
            .with_context(|| format!("{name} takes {} values", input.len()))?;
            ensure!(tensor.datum_type() == input.datum_type, "{name} takes {:?}", input.datum_type);
            self.feed[index] = tensor;
        }
        let feed = self.feed.iter().map(|tensor| tensor.clone().into()).collect();
        for (result, tensor) in self.results.iter_mut().zip(self.model.run(feed)?) {
            let tensor = tensor.cast_to::<f32>()?;
            let values = tensor.try_as_plain_ram()?.as_slice::<f32>()?;
            ensure!(values.len() == result.len(), "the graph gives outputs of another size than the record says");
            result.copy_from_slice(values);
        }
        Ok(&self.results)
    }
}

fn specs(list: &Json) -> Result<Vec<Spec>> {
    list.as_array().context("the record has no inputs or outputs")?.iter().map(Spec::read).collect()
}

fn is_state(input: &Spec) -> bool {
    matches!(input.role.as_str(), "hidden_state" | "cell_state" | "episode_start")
}

fn fill(tensor: &mut Tensor, value: f32) {
    tensor.fill_t(value).expect("loading has seen that state is float32");
}
