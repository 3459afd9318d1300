mod device;
mod rules;
mod trust;
mod world;
