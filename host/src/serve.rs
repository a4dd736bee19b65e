//! `pacer serve`: puts the parts together, and takes them apart in order.
