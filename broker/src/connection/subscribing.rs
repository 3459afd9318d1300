//! SUBSCRIBE and UNSUBSCRIBE.

use std::{num::NonZeroU16, sync::Arc};

use bytestring::ByteString;
use rmqtt_codec::v5::{RetainHandling, SubscribeAckReason, SubscriptionOptions, UnsubscribeAckReason};

use super::{Connection, Exit, outbound::Replay, socket::Stream};
use crate::{
    Action, QoS,
    message::Options,
    topic::{self, Plane, planes},
    wire::Subscribe,
};

impl<S: Stream> Connection<S> {
    pub(super) async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), Exit> {
        let mut status = Vec::with_capacity(subscribe.filters.len());
        for (filter, wanted) in subscribe.filters {
            let reason = match self.check(&filter) {
                Ok(()) => {
                    let options = Options {
                        qos: wanted.qos.into(),
                        no_local: wanted.no_local,
                        retain_as_published: wanted.retain_as_published,
                        id: subscribe.subscription,
                    };
                    self.add(&filter, options, wanted).await?;
                    granted(options.qos)
                }
                Err(reason) => {
                    self.state.metrics.refuse(cause(reason));
                    reason
                }
            };
            status.push(reason);
        }
        self.wire.suback(&mut self.socket.output, subscribe.id, status);
        self.state.metrics.sent.inc();
        Ok(())
    }

    fn check(&self, filter: &str) -> Result<(), SubscribeAckReason> {
        if filter.starts_with("$share/") {
            return Err(SubscribeAckReason::SharedSubscriptionNotSupported);
        }
        let config = &self.state.config;
        if !topic::valid_filter(filter, config.max_topic_levels)
            || filter.len() > config.limits.max_topic_length
        {
            return Err(SubscribeAckReason::TopicFilterInvalid);
        }
        let subscriptions = &self.session.subscriptions;
        let full = subscriptions.len() >= self.state.config.max_subscriptions;
        if full && !subscriptions.iter().any(|(known, _)| **known == *filter) {
            return Err(SubscribeAckReason::QuotaExceeded);
        }
        let action = Action::Subscribe(topic::unshared(filter));
        if !self.permissions.allow(&self.peer.client, action) {
            return Err(SubscribeAckReason::NotAuthorized);
        }
        Ok(())
    }

    async fn add(&mut self, filter: &str, options: Options, wanted: SubscriptionOptions) -> Result<(), Exit> {
        let filter: Arc<str> = filter.into();
        let new = self.session.subscribe(&filter, options);
        let replay = match wanted.retain_handling {
            RetainHandling::AtSubscribe => true,
            RetainHandling::AtSubscribeNew => new,
            RetainHandling::NoAtSubscribe => false,
        };
        self.session.listen(&filter, options);
        for plane in planes(&filter) {
            if *plane == Plane::Application {
                self.open_link().await?;
                if let Some(link) = self.session.link.as_deref_mut() {
                    let subscribed = link.subscribe(&filter, options).await;
                    subscribed.map_err(|error| self.router_failed(&error))?;
                }
            }
            if replay {
                self.replays
                    .push_back(Replay::new(Arc::clone(&filter), *plane, options));
            }
        }
        Ok(())
    }

    pub(super) async fn unsubscribe(&mut self, id: NonZeroU16, filters: Vec<ByteString>) -> Result<(), Exit> {
        let mut status = Vec::with_capacity(filters.len());
        for filter in filters {
            if !self.session.unsubscribe(&filter) {
                status.push(UnsubscribeAckReason::NoSubscriptionExisted);
                continue;
            }
            self.replays.retain(|replay| *replay.filter != *filter);
            if planes(&filter).contains(&Plane::Application)
                && let Some(link) = self.session.link.as_deref_mut()
            {
                let unsubscribed = link.unsubscribe(&filter).await;
                unsubscribed.map_err(|error| self.router_failed(&error))?;
            }
            status.push(UnsubscribeAckReason::Success);
        }
        self.wire.unsuback(&mut self.socket.output, id, status);
        self.state.metrics.sent.inc();
        Ok(())
    }
}

fn granted(qos: QoS) -> SubscribeAckReason {
    match qos {
        QoS::AtMostOnce => SubscribeAckReason::GrantedQos0,
        QoS::AtLeastOnce => SubscribeAckReason::GrantedQos1,
        QoS::ExactlyOnce => SubscribeAckReason::GrantedQos2,
    }
}

fn cause(reason: SubscribeAckReason) -> &'static str {
    match reason {
        SubscribeAckReason::SharedSubscriptionNotSupported => "shared_subscription",
        SubscribeAckReason::QuotaExceeded => "subscriptions",
        SubscribeAckReason::NotAuthorized => "not_authorized",
        _ => "filter",
    }
}
