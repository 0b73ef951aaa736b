"""Dashboards for Grafana: built here, committed as JSON beside their source."""
