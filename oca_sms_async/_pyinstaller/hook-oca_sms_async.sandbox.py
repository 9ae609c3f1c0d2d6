"""PyInstaller takes along code alone; this adds the page of the sandbox to a program that imports the sandbox."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("oca_sms_async.sandbox")
