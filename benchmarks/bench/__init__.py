"""The app that is measured, the same in the generated project and in a stock one."""
