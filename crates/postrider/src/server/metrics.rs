//! The metrics of all rooms in one registry.

use prometheus_client::registry::Registry;

/// A registry that is filled while the rooms are opened and read afterwards.
#[derive(Debug)]
pub struct Meters(Registry);

impl Meters {
    /// An empty one with what is known of the process.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let info = prometheus_client::metrics::info::Info::new(version);
        registry.register("postrider_build", "The program", info);
        Self(registry)
    }

    /// Where rooms register.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.0
    }

    /// All of it in the OpenMetrics text form.
    pub fn to_text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}
