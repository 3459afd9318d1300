//! A gateway: the MQTT server its devices stay connected to, which moves away those that belong elsewhere.
//!
//! [`notices`] decides, [`store`] keeps, [`link`] talks to the registrar, [`admission`] answers the broker.
//! [`Server`] ties them together; the `gateway` program is a thin shell around it.

pub mod notices;
