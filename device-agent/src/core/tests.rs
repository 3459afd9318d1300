mod device;
mod rules;
mod world;
