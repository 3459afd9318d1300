use clap::builder::{PossibleValuesParser, TypedValueParser};
use protocol::{DeviceId, GatewayId};
use serde::Serialize;

use super::{
    Client, Error, device,
    output::{Format, Printer, Record},
};
use crate::api::Device;

/// A device as `import` reads it.
#[derive(Serialize)]
struct Line {
    device: DeviceId,
    gateway: GatewayId,
    #[serde(skip_serializing_if = "String::is_empty")]
    labels: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

impl From<Device> for Line {
    fn from(device: Device) -> Self {
        Self {
            device: device.device,
            gateway: device.gateway,
            labels: device.labels,
            note: device.note,
        }
    }
}

impl Record for Line {
    const COLUMNS: &'static [&'static str] = &["device", "gateway", "labels", "note"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.device.to_string(),
            self.gateway.to_string(),
            self.labels.clone(),
            self.note.clone(),
        ]
    }
}

/// Reads the formats that `import` understands.
pub fn formats() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(["csv", "ndjson"]).map(|name| match name.as_str() {
        "csv" => Format::Csv,
        _ => Format::Ndjson,
    })
}

pub fn run(client: &Client, gateway: Option<&GatewayId>, format: Format) -> Result<(), Error> {
    // The parser cannot see an -o that stands before the verb.
    if !matches!(format, Format::Csv | Format::Ndjson) {
        return Err(Error::Usage("export prints csv or ndjson".into()));
    }
    let mut printer = Printer::new::<Line>(format)?;
    device::for_each(client, gateway, |device| {
        printer.row(&Line::from(device)).map(|()| true)
    })?;
    printer.finish()
}
