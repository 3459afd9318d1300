//! Disabling and enabling devices.

use protocol::DeviceId;

use super::{Plan, Service, ServiceError};
use crate::api::Device;

impl Service {
    /// Refuses a device everywhere: its questions, its connection, its tickets. Doing so twice changes nothing.
    ///
    /// # Errors
    /// Unknown device, as many disabled ones as may be, a failing store.
    pub async fn disable(&self, id: DeviceId, actor: String) -> Result<Device, ServiceError> {
        self.set_disabled(id, true, actor).await
    }

    /// Lets a disabled device in again, to the gateway it is assigned to.
    ///
    /// # Errors
    /// Unknown device, a failing store.
    pub async fn enable(&self, id: DeviceId, actor: String) -> Result<Device, ServiceError> {
        self.set_disabled(id, false, actor).await
    }

    async fn set_disabled(
        &self,
        id: DeviceId,
        disabled: bool,
        actor: String,
    ) -> Result<Device, ServiceError> {
        let device = id.clone();
        self.change(id, move |parts, id, before| {
            let before = before.filter(|before| !before.removed);
            let before = before.ok_or_else(|| ServiceError::UnknownDevice(id.clone()))?;
            let max = parts.settings.max_disabled;
            if disabled && !before.disabled && parts.directory.disabled() >= max as u64 {
                return Err(ServiceError::Unavailable(format!(
                    "{max} devices are disabled, which is as many as may be"
                )));
            }
            Ok(Plan::disabling(before, disabled, &actor))
        })
        .await?;
        self.device(&device).await
    }
}
